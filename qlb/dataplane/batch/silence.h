/* Sessions that get no answers any more although their clients talk.
 *
 * A socket may be dead without an error: its IPv6 source address was removed (sends succeed for ever), or a NAT on the
 * way still translates to a target that is gone. A new socket helps in both cases. Clients count by marks: a mark is a
 * datagram at least QLB_MARK_NS after the mark before it, so that a burst of acknowledgements is one mark.
 * An answer clears the marks. A pause starts the count again.
 */
#ifndef QLB_BATCH_SILENCE_H
#define QLB_BATCH_SILENCE_H

#include "sessions.h"

#define QLB_MARK_NS 100000000ull
#define QLB_MARKS 3
#define QLB_SILENCE_MS 500               /* from the first mark on */
#define QLB_MARK_PAUSE_NS 1000000000ull  /* between two marks: a new count begins */
#define QLB_REOPEN_PAUSE_NS 250000000ull /* between two sockets that errors of sends ask for */
#define QLB_MAX_SILENCES 4               /* the pause doubles so many times: 1, 2, 4, 8, 16 s */

/* Note a datagram of the client. Return whether the session should get a new socket before it is sent. */
QLB_INLINE int qlb_silence_note(struct qlb_session *session, uint64_t now_ns)
{
    const uint32_t now_ms = (uint32_t)(now_ns / 1000000);
    if (!session->is_answered || now_ns - session->mark_ns < QLB_MARK_NS)
        return 0;
    if (!session->marks || now_ns - session->mark_ns > QLB_MARK_PAUSE_NS) {
        session->marks = 0;
        session->first_mark_ms = now_ms;
    }
    session->mark_ns = now_ns;
    if (session->marks < QLB_MARKS)
        session->marks++;
    return session->marks == QLB_MARKS && now_ms - session->first_mark_ms >= QLB_SILENCE_MS &&
           now_ns >= session->reopen_at_ns;
}

/* Note that a session got a new socket because of silence: the next one has to wait longer. */
QLB_INLINE void qlb_silence_reopened(struct qlb_session *session, uint64_t now_ns)
{
    session->marks = 0;
    session->reopen_at_ns = now_ns + (QLB_MARK_PAUSE_NS << session->silences);
    if (session->silences < QLB_MAX_SILENCES)
        session->silences++;
}

/* Note an answer of the backend. */
QLB_INLINE void qlb_silence_end(struct qlb_session *session)
{
    session->is_answered = 1;
    session->marks = session->silences = 0;
}

#endif
