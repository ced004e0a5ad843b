/* Fuzzes what the receive loop does with a datagram: the walk through its frames and the decoding of its envelope. */
#include <assert.h>
#include <errno.h>

#include "proto/frame.h"
#include "proto/walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct toll_frame frame, found;
    char reason[TOLL_REASON_MAX];
    const void *bytes;
    size_t pos = 0, frame_size, found_size;

    for (int step, n = 0; (step = toll_walk_next(data, size, &pos, &bytes, &frame_size)) != 0; n++) {
        if (n > 0)
            continue;
        int r = toll_envelope_decode(bytes, frame_size, &frame, reason);
        assert(r == 0 || r == -EINVAL || r == -ENOENT);
        assert(step > 0 || r == -ENOENT);
        int other = toll_envelope_find(data, size, &found, &found_size, reason);
        assert((other == 0) == (r == 0));
        assert(r < 0 || (found_size == frame_size && found.stream_seq == frame.stream_seq &&
                         found.stream_base == frame.stream_base && found.stream_count == frame.stream_count &&
                         found.client.ptr == frame.client.ptr && found.client.len == frame.client.len));
        assert(r < 0 || (frame.stream_base >= 1 && frame.stream_base <= frame.stream_seq &&
                         frame.stream_seq + frame.stream_count <= TOLL_SEQ_MAX + 1));
    }
    return 0;
}
