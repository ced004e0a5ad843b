/* UUIDs: random ones, and their text. */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "client/toll.h"

int toll_id_random(unsigned char ret[16])
{
    unsigned char id[16];
    ssize_t n;
    do {
        n = getrandom(id, sizeof id, 0);
    } while (n < 0 && errno == EINTR);
    if (n != sizeof id)
        return n < 0 ? -errno : -EIO;
    id[6] = (unsigned char)((id[6] & 0x0f) | 0x40); /* RFC 9562: version 4, variant 10 */
    id[8] = (unsigned char)((id[8] & 0x3f) | 0x80);
    memcpy(ret, id, sizeof id);
    return 0;
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Before which bytes a hyphen stands. */
static bool has_hyphen(int byte)
{
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

int toll_id_parse(const char *text, unsigned char ret[16])
{
    unsigned char id[16];
    for (int i = 0; i < 16; i++) {
        if (has_hyphen(i) && *text++ != '-')
            return -EINVAL;
        int high = nibble(text[0]);
        int low = high < 0 ? -1 : nibble(text[1]);
        if (low < 0)
            return -EINVAL;
        id[i] = (unsigned char)(high << 4 | low);
        text += 2;
    }
    if (*text)
        return -EINVAL;
    memcpy(ret, id, sizeof id);
    return 0;
}

void toll_id_format(const unsigned char id[16], char ret[37])
{
    static const char digits[] = "0123456789abcdef";
    char *p = ret;
    for (int i = 0; i < 16; i++) {
        if (has_hyphen(i))
            *p++ = '-';
        *p++ = digits[id[i] >> 4];
        *p++ = digits[id[i] & 15];
    }
    *p = '\0';
}
