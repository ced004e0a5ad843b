/* See registration.h. The files hold little-endian integers. */
#include "daemon/registration.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { IDS_BYTES = 32, REGISTRATION_BYTES = 36, RENEWAL_BYTES = 20 };

#define RENEWAL_FILE "renewed"

static const char *file_name(char name[static 48], const char *sink, unsigned writer)
{
    if (writer == 0)
        snprintf(name, 48, "registered-%s", sink);
    else
        snprintf(name, 48, "registered-%s-%u", sink, writer);
    return name;
}

static void put_le32(uint8_t *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, sizeof(value));
}

static uint32_t get_le32(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof(value));
    return le32toh(value);
}

static bool tells_nothing(ssize_t n)
{
    return n == -ENOENT || n == -EBADMSG || n == -EMSGSIZE;
}

int registration_read(struct journal *journal, const char *sink, unsigned writer, struct registration *ret,
                      bool *ret_registered)
{
    uint8_t bytes[REGISTRATION_BYTES] = {0};
    char name[48];
    ssize_t n = journal_state_read(journal, file_name(name, sink, writer), bytes, sizeof(bytes));

    if (n < 0 && !tells_nothing(n))
        return (int)n;
    memset(ret, 0, sizeof(*ret));
    *ret_registered =
        n >= (ssize_t)sizeof(ret->journal) && memcmp(bytes, journal_uuid(journal), sizeof(ret->journal)) == 0;
    if (n >= IDS_BYTES) {
        memcpy(ret->journal, bytes, sizeof(ret->journal));
        memcpy(ret->run, bytes + sizeof(ret->journal), sizeof(ret->run));
    }
    if (n == REGISTRATION_BYTES)
        ret->writers = get_le32(bytes + IDS_BYTES);
    return 0;
}

int registration_write(struct journal *journal, const char *sink, unsigned writer,
                       const struct registration *registration)
{
    uint8_t bytes[REGISTRATION_BYTES];
    char name[48];

    memcpy(bytes, registration->journal, sizeof(registration->journal));
    memcpy(bytes + sizeof(registration->journal), registration->run, sizeof(registration->run));
    put_le32(bytes + IDS_BYTES, registration->writers);
    return journal_state_write(journal, file_name(name, sink, writer), bytes, sizeof(bytes));
}

int renewal_read(struct journal *journal, struct renewal *ret, bool *ret_applies)
{
    uint8_t bytes[RENEWAL_BYTES + 8 * SHARE_WRITERS_MAX];
    ssize_t n = journal_state_read(journal, RENEWAL_FILE, bytes, sizeof(bytes));

    if (n < 0 && !tells_nothing(n))
        return (int)n;
    *ret_applies = false;
    if (n < RENEWAL_BYTES || memcmp(bytes, journal_uuid(journal), sizeof(ret->journal)) != 0)
        return 0;
    memcpy(ret->journal, bytes, sizeof(ret->journal));
    ret->writers = get_le32(bytes + sizeof(ret->journal));
    if (ret->writers == 0 || ret->writers > SHARE_WRITERS_MAX || n != RENEWAL_BYTES + 8 * (ssize_t)ret->writers)
        return 0;
    for (unsigned i = 0; i < ret->writers; i++) {
        uint64_t lsn;

        memcpy(&lsn, bytes + RENEWAL_BYTES + i * sizeof(lsn), sizeof(lsn));
        ret->lsns[i] = le64toh(lsn);
    }
    *ret_applies = true;
    return 0;
}

int renewal_write(struct journal *journal, const struct renewal *renewal)
{
    uint8_t bytes[RENEWAL_BYTES + 8 * SHARE_WRITERS_MAX];

    memcpy(bytes, renewal->journal, sizeof(renewal->journal));
    put_le32(bytes + sizeof(renewal->journal), renewal->writers);
    for (unsigned i = 0; i < renewal->writers; i++) {
        uint64_t lsn = htole64(renewal->lsns[i]);

        memcpy(bytes + RENEWAL_BYTES + i * sizeof(lsn), &lsn, sizeof(lsn));
    }
    return journal_state_write(journal, RENEWAL_FILE, bytes, RENEWAL_BYTES + 8 * (size_t)renewal->writers);
}
