/* See credit.h. The list is sorted by id; a second one, sorted by host, finds what a page is to say. */
#include "daemon/credit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One host of one session. */
struct hosted {
    uint32_t host, state;
    size_t session;
};

struct credit {
    struct credit_session *sessions; /* by id */
    size_t count;
    struct hosted *hosted; /* by host, the worst state first; room for CREDIT_HOSTS of each session */
    size_t hosted_count;
    bool sorted, changed; /* hosted is as the sessions say; the pages may not be */
};

static int by_id(const void *a, const void *b)
{
    const struct credit_session *left = a, *right = b;

    return memcmp(left->id, right->id, sizeof(left->id));
}

static int by_host(const void *a, const void *b)
{
    const struct hosted *left = a, *right = b;

    if (left->host != right->host)
        return left->host < right->host ? -1 : 1;
    if (left->state != right->state)
        return left->state > right->state ? -1 : 1;
    return left->session < right->session ? -1 : left->session > right->session;
}

/* As the latest host, unless it is one already. */
static bool add_host(struct credit_session *session, uint32_t host)
{
    for (size_t i = 0; i < CREDIT_HOSTS; i++)
        if (host == 0 || session->hosts[i] == host)
            return false;
    memmove(session->hosts + 1, session->hosts, (CREDIT_HOSTS - 1) * sizeof(*session->hosts));
    session->hosts[0] = host;
    return true;
}

static struct credit_session *find(const struct credit *credit, const uint8_t id[static 16])
{
    struct credit_session key;

    if (credit->count == 0)
        return NULL;
    memcpy(key.id, id, sizeof(key.id));
    return bsearch(&key, credit->sessions, credit->count, sizeof(key), by_id);
}

/* What memory knows comes first, for it is what the database has; then what was seen to pass by; and where there is room, whose it was when it began. */
static void keep_hosts(struct credit_session *session, const struct credit_session *before)
{
    uint32_t known = session->hosts[0];

    memset(session->hosts, 0, sizeof(session->hosts));
    if (before)
        memcpy(session->hosts, before->hosts, sizeof(session->hosts));
    add_host(session, known);
    for (size_t i = 0; i < CREDIT_HOSTS && session->hosts[i] != session->began; i++)
        if (session->hosts[i] == 0)
            session->hosts[i] = session->began;
}

int credit_replace(struct credit *credit, struct credit_session *list, size_t count)
{
    struct hosted *hosted = calloc(count * CREDIT_HOSTS + 1, sizeof(*hosted));

    if (!hosted)
        return -ENOMEM;
    qsort(list, count, sizeof(*list), by_id);
    for (size_t i = 0; i < count; i++)
        keep_hosts(&list[i], find(credit, list[i].id));
    free(credit->sessions);
    free(credit->hosted);
    credit->sessions = list;
    credit->count = count;
    credit->hosted = hosted;
    credit->sorted = false;
    credit->changed = true;
    return 0;
}

bool credit_none(const struct credit *credit)
{
    return credit->count == 0;
}

void credit_note(struct credit *credit, const uint8_t id[static 16], uint32_t host)
{
    struct credit_session *session = find(credit, id);

    if (session && add_host(session, host)) {
        credit->sorted = false;
        credit->changed = true;
    }
}

bool credit_changed(const struct credit *credit)
{
    return credit->changed;
}

void credit_shown(struct credit *credit)
{
    credit->changed = false;
}

static void sort_by_host(struct credit *credit)
{
    credit->hosted_count = 0;
    for (size_t i = 0; i < credit->count; i++)
        for (size_t n = 0; n < CREDIT_HOSTS && credit->sessions[i].hosts[n]; n++)
            credit->hosted[credit->hosted_count++] =
                (struct hosted){.host = credit->sessions[i].hosts[n], .state = credit->sessions[i].state, .session = i};
    qsort(credit->hosted, credit->hosted_count, sizeof(*credit->hosted), by_host);
    credit->sorted = true;
}

/* The first entry of that host, or where it would be. */
static size_t first_of(const struct credit *credit, uint32_t host)
{
    size_t low = 0, high = credit->hosted_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (credit->hosted[middle].host < host)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void credit_show(struct credit *credit, uint32_t host, struct ackpage *page)
{
    struct ackpage_credit entries[ACKPAGE_CREDITS];
    size_t count = 0, i;

    if (!credit->sorted && credit->count > 0)
        sort_by_host(credit);
    for (i = credit->count > 0 ? first_of(credit, host) : credit->hosted_count;
         count < ACKPAGE_CREDITS && i < credit->hosted_count && credit->hosted[i].host == host; i++) {
        memcpy(entries[count].session, credit->sessions[credit->hosted[i].session].id, sizeof(entries[count].session));
        entries[count++].state = credit->hosted[i].state;
    }
    ackpage_set_credit(page, entries, count,
                       credit->count > 0 && i < credit->hosted_count && credit->hosted[i].host == host);
}

struct credit *credit_new(void)
{
    return calloc(1, sizeof(struct credit));
}

void credit_free(struct credit *credit)
{
    if (!credit)
        return;
    free(credit->sessions);
    free(credit->hosted);
    free(credit);
}
