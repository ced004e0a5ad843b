/* Tests of daemon/idhash: the same bytes hash alike, other bytes do not collide more than chance allows, and
 * no process knows another's hashes. */
#include <stdbool.h>
#include <stdlib.h>

/* Before uthash's own. */
static bool no_memory;
#define uthash_malloc(size) (no_memory ? NULL : malloc(size))

#include "daemon/idhash.h"

#include "tests/unit/datagrams.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

START_TEST(equal_bytes_hash_alike_wherever_they_lie)
{
    const char buffer[64] = "0123456789abcdefghij";
    uint32_t hash;

    hash = idhash(buffer, 20);
    for (size_t at = 1; at < 40; at++) {
        char moved[64] = {0};

        memcpy(moved + at, buffer, 20);
        ck_assert_uint_eq(idhash(moved + at, 20), hash);
    }
}
END_TEST

START_TEST(size_and_every_byte_count)
{
    uint8_t id[20] = {0};
    uint32_t hash = idhash(id, sizeof(id));

    ck_assert_uint_ne(idhash(id, 16), hash);
    ck_assert_uint_ne(idhash(id, 0), idhash(id, 1));
    for (size_t bit = 0; bit < 8 * sizeof(id); bit++) {
        id[bit / 8] ^= (uint8_t)(1 << bit % 8);
        ck_assert_uint_ne(idhash(id, sizeof(id)), hash); /* by chance in one of 27 million runs */
        id[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}
END_TEST

static int compare(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

    return (left > right) - (left < right);
}

/* Ids that count up in any of their bytes: the low bits, which pick uthash's bucket, are spread like the
 * whole. */
START_TEST(similar_ids_are_spread)
{
    enum { IDS = 20000, BUCKETS = 1024 };
    static uint32_t hashes[IDS];

    for (size_t at = 0; at <= 12; at += 4) {
        unsigned buckets[BUCKETS] = {0}, equal = 0;

        for (uint32_t i = 0; i < IDS; i++) {
            uint8_t id[16] = {0};

            memcpy(id + at, &i, sizeof(i));
            hashes[i] = idhash(id, sizeof(id));
            buckets[hashes[i] % BUCKETS]++;
        }
        for (size_t i = 0; i < BUCKETS; i++)
            ck_assert_uint_lt(buckets[i], 80); /* 20 on average */
        qsort(hashes, IDS, sizeof(*hashes), compare);
        for (size_t i = 1; i < IDS; i++)
            equal += hashes[i] == hashes[i - 1];
        ck_assert_uint_lt(equal, 8); /* 0.05 expected */
    }
}
END_TEST

static void *hash_in_thread(void *argument)
{
    uint32_t *ret = argument;

    *ret = idhash("x", 1);
    return NULL;
}

START_TEST(threads_draw_one_secret)
{
    pthread_t threads[8];
    uint32_t hashes[8];

    for (size_t i = 0; i < 8; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, hash_in_thread, &hashes[i]), 0);
    for (size_t i = 0; i < 8; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    for (size_t i = 1; i < 8; i++)
        ck_assert_uint_eq(hashes[i], hashes[0]);
}
END_TEST

static uint64_t hash_of_another_process(const char *program)
{
    char command[600], text[40] = "";
    FILE *pipe;

    snprintf(command, sizeof(command), "exec '%s' --print", program);
    pipe = popen(command, "r");
    ck_assert_ptr_nonnull(pipe);
    ck_assert_ptr_nonnull(fgets(text, sizeof(text), pipe));
    ck_assert_int_eq(pclose(pipe), 0);
    return strtoull(text, NULL, 16);
}

static char program[512];

START_TEST(each_process_has_its_own_secret)
{
    ck_assert_uint_ne(hash_of_another_process(program), hash_of_another_process(program));
}
END_TEST

struct entry {
    uint32_t key;
    UT_hash_handle hh;
};

/* Every entry that takes memory is refused once, the first and those at which the table grows, and then taken. */
START_TEST(add_without_memory_leaves_the_table_as_it_was)
{
    enum { ENTRIES = 5000 };
    static struct entry entries[ENTRIES];
    struct entry *table = NULL, *found;
    unsigned refused = 0;

    for (uint32_t i = 0; i < ENTRIES; i++) {
        entries[i].key = i;
        no_memory = true;
        if (idhash_add(table, key, &entries[i]) < 0) {
            no_memory = false;
            refused++;
            ck_assert_uint_eq(HASH_COUNT(table), i);
            HASH_FIND(hh, table, &i, sizeof(i), found);
            ck_assert_ptr_null(found);
            ck_assert_int_eq(idhash_add(table, key, &entries[i]), 0);
        }
    }
    no_memory = false;
    ck_assert_uint_gt(refused, 5);
    ck_assert_uint_eq(HASH_COUNT(table), ENTRIES);
    for (uint32_t i = 0; i < ENTRIES; i++) {
        HASH_FIND(hh, table, &i, sizeof(i), found);
        ck_assert_ptr_eq(found, &entries[i]);
        HASH_DEL(table, found);
    }
    ck_assert_ptr_null(table);
}
END_TEST

int main(int argc, char **argv)
{
    Suite *suite;
    TCase *tests;
    ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);

    if (argc > 1 && strcmp(argv[1], "--print") == 0) {
        printf("%08x%08x\n", idhash("a", 1), idhash("b", 1));
        return 0;
    }
    if (n <= 0)
        return 1;
    suite = suite_create("idhash");
    tests = tcase_create("idhash");
    tcase_add_test(tests, equal_bytes_hash_alike_wherever_they_lie);
    tcase_add_test(tests, size_and_every_byte_count);
    tcase_add_test(tests, similar_ids_are_spread);
    tcase_add_test(tests, add_without_memory_leaves_the_table_as_it_was);
    tcase_add_test(tests, threads_draw_one_secret);
    tcase_add_test(tests, each_process_has_its_own_secret);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
