/* The inbox: the buffers of the batch plane, and one recvmmsg() call that fills them.
 *
 * forward.c and reply.c receive through it. A message uses one buffer, which has room for the largest datagram or the
 * largest piece of UDP_GRO, so no datagram is truncated. The octets stay in place until the slot is used again.
 */
#include <stdlib.h>

#include "forwarder.h"

int qlb_inbox_open(struct qlb_inbox *inbox)
{
    inbox->octets = malloc((size_t)QLB_BATCH * QLB_BUFFER_STRIDE);
    if (!inbox->octets)
        return -1;
    for (uint32_t i = 0; i < QLB_BATCH; i++) {
        inbox->buffers[i] = (struct iovec){inbox->octets + (size_t)i * QLB_BUFFER_STRIDE, QLB_BUFFER_BYTES};
        inbox->messages[i].msg_hdr = (struct msghdr){
            .msg_iov = &inbox->buffers[i],
            .msg_iovlen = 1,
            .msg_control = inbox->control[i],
        };
    }
    return 0;
}

/* Hot: run `python -m benchmarks.forward --quick --axis base` before you change it. */
int qlb_inbox_receive(struct qlb_inbox *inbox, int fd, uint32_t first, uint32_t most, int named)
{
    for (uint32_t i = first; i < first + most; i++) {
        inbox->messages[i].msg_hdr.msg_name = named ? &inbox->senders[i] : NULL;
        inbox->messages[i].msg_hdr.msg_namelen = sizeof inbox->senders[i];
        inbox->messages[i].msg_hdr.msg_controllen = sizeof inbox->control[i];
    }
    return recvmmsg(fd, &inbox->messages[first], most, MSG_DONTWAIT, NULL);
}
