/* Recognise sessions that no longer get answers although their clients send.
 *
 * A socket may be dead without an error: its IPv6 source address was removed (sends still succeed), or a NAT on the
 * path still translates to a target that no longer exists. A new socket helps in both cases. The client's datagrams are
 * counted as marks: a mark is a datagram at least QLB_MARK_NS after the previous mark, so that a burst of
 * acknowledgements is one mark. An answer clears the marks. After a gap, the count starts again.
 *
 * forward.c calls qlb_silence_note() for each datagram of a client, reply.c calls qlb_silence_end() for each answer. A
 * session that never got an answer gets no new socket, and the pause between two sockets doubles up to 16 s.
 *
 * Hot: run `python -m benchmarks.forward --quick --axis base` before you change these functions.
 */
#ifndef QLB_BATCH_SILENCE_H
#define QLB_BATCH_SILENCE_H

#include "sessions.h"

#define QLB_MARK_NS 100000000ull
#define QLB_MARKS 3
#define QLB_SILENCE_MS 500               /* from the first mark on */
#define QLB_MARK_PAUSE_NS 1000000000ull  /* a longer gap between two marks starts a new count */
#define QLB_REOPEN_PAUSE_NS 250000000ull /* between two new sockets of a session because of send errors */
#define QLB_MAX_SILENCES 4               /* how often the pause doubles: 1, 2, 4, 8, 16 s */

/* Record a datagram of the client. Return 1 if the session should get a new socket before the datagram is sent, else 0.
 * */
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

/* Record that a session got a new socket because of silence. The next one has to wait longer. */
QLB_INLINE void qlb_silence_reopened(struct qlb_session *session, uint64_t now_ns)
{
    session->marks = 0;
    session->reopen_at_ns = now_ns + (QLB_MARK_PAUSE_NS << session->silences);
    if (session->silences < QLB_MAX_SILENCES)
        session->silences++;
}

/* Record an answer of the backend. */
QLB_INLINE void qlb_silence_end(struct qlb_session *session)
{
    session->is_answered = 1;
    session->marks = session->silences = 0;
}

#endif
