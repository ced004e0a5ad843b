/* Tests of daemon/ackpage: which descriptors are taken, and the bytes a worker reads. */
#include "daemon/ackpage.h"

#include "tests/unit/datagrams.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW };

static int make(off_t size, int seals)
{
    int fd = memfd_create("page", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, size), 0);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void check_refused(int fd)
{
    struct ackpage *page = NULL;

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ackpage_map(&page, fd), -EINVAL);
    ck_assert_ptr_null(page);
    ck_assert_int_ge(fcntl(fd, F_GETFD), 0); /* the descriptor stays the caller's */
    close(fd);
}

START_TEST(memfds_of_the_wrong_size_or_without_seals_are_refused)
{
    check_refused(make(4095, SEALS));
    check_refused(make(4097, SEALS));
    check_refused(make(8192, SEALS));
    check_refused(make(0, SEALS));
    check_refused(make(4096, 0));
    check_refused(make(4096, F_SEAL_SHRINK));
    check_refused(make(4096, F_SEAL_GROW));
    check_refused(make(4096, SEALS | F_SEAL_WRITE)); /* could not be written */
}
END_TEST

START_TEST(page_opened_for_reading_only_is_refused)
{
    int fd = make(4096, SEALS);
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    check_refused(open(path, O_RDONLY | O_CLOEXEC));
    close(fd);
}
END_TEST

START_TEST(other_descriptors_are_refused)
{
    char path[] = "/tmp/toll-test-page.XXXXXX";
    int fds[2], file = mkstemp(path);

    ck_assert_int_eq(ftruncate(file, 4096), 0);
    unlink(path);
    check_refused(file);
    ck_assert_int_eq(pipe(fds), 0);
    check_refused(fds[0]);
    check_refused(fds[1]);
    check_refused(socket(AF_UNIX, SOCK_DGRAM, 0));
    check_refused(open("/dev/null", O_RDWR));
    check_refused(open("/tmp", O_RDONLY | O_DIRECTORY));
    check_refused(open("/tmp", O_PATH));
}
END_TEST

/* Offsets and byte order are the protocol's: read as a worker of any language would. */
static uint64_t read_at(const uint8_t *map, size_t offset, size_t size)
{
    uint64_t value = 0;

    while (size-- > 0)
        value = value << 8 | map[offset + size];
    return value;
}

START_TEST(worker_reads_what_the_protocol_says)
{
    int fd = make(4096, SEALS);
    uint8_t *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct ackpage *page;

    ck_assert_ptr_ne(map, MAP_FAILED);
    memset(map, 0xEE, 4096); /* what the worker had there is overwritten */
    ck_assert_int_eq(ackpage_map(&page, fd), 0);
    close(fd); /* the mapping does not need it */
    ackpage_begin(page, UINT64_C(0x0102030405060708), UINT64_C(0x1112131415161718), ACKPAGE_BUSY,
                  UINT64_C(0x2122232425262728));
    ck_assert_uint_eq(read_at(map, 0, 4), 0x4C4C4F54);
    ck_assert_mem_eq(map, "TOLL", 4);
    ck_assert_uint_eq(read_at(map, 4, 4), 1);
    ck_assert_uint_eq(read_at(map, 8, 8), UINT64_C(0x0102030405060708));
    ck_assert_uint_eq(read_at(map, 16, 8), UINT64_C(0x1112131415161718));
    ck_assert_uint_eq(read_at(map, 24, 4), 1);
    ck_assert_uint_eq(read_at(map, 32, 8) % 2, 0);
    ck_assert_uint_eq(read_at(map, 40, 4), 0);
    ck_assert_uint_eq(read_at(map, 48, 8), UINT64_C(0x2122232425262728));
    for (size_t i = 64; i < 4096; i++)
        ck_assert_uint_eq(map[i], 0);
    ackpage_set_acked(page, UINT64_MAX);
    ackpage_set_state(page, ACKPAGE_STOPPING);
    ackpage_set_heartbeat(page, 5);
    ck_assert_uint_eq(read_at(map, 16, 8), UINT64_MAX);
    ck_assert_uint_eq(read_at(map, 24, 4), 2);
    ck_assert_uint_eq(read_at(map, 48, 8), 5);
    ackpage_unmap(page);
    ackpage_unmap(NULL);
    munmap(map, 4096);
}
END_TEST

/* A page, and the worker's view of it. */
static struct ackpage *begin_page(uint8_t **ret_map, int *ret_fd)
{
    struct ackpage *page;

    *ret_fd = make(4096, SEALS);
    *ret_map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, *ret_fd, 0);
    ck_assert_ptr_ne(*ret_map, MAP_FAILED);
    ck_assert_int_eq(ackpage_map(&page, *ret_fd), 0);
    ackpage_begin(page, 1000, 0, ACKPAGE_OK, 0);
    return page;
}

START_TEST(credit_table_is_what_the_protocol_says)
{
    struct ackpage_credit entries[ACKPAGE_CREDITS];
    uint64_t generation;
    uint8_t *map;
    int fd;
    struct ackpage *page = begin_page(&map, &fd);

    for (unsigned i = 0; i < ACKPAGE_CREDITS; i++) {
        id_of(entries[i].session, i);
        entries[i].state = 1 + i % 2;
    }
    generation = read_at(map, 32, 8);
    ackpage_set_credit(page, entries, 3, false);
    ck_assert_uint_gt(read_at(map, 32, 8), generation);
    ck_assert_uint_eq(read_at(map, 32, 8) % 2, 0);
    ck_assert_uint_eq(read_at(map, 40, 4), 3);
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_mem_eq(map + 64 + (size_t)i * 24, entries[i].session, 16);
        ck_assert_uint_eq(read_at(map, 64 + i * 24 + 16, 4), entries[i].state);
        ck_assert_uint_eq(read_at(map, 64 + i * 24 + 20, 4), 0);
    }
    ck_assert_uint_eq(read_at(map, 24, 4), 0);
    ackpage_set_credit(page, entries, ACKPAGE_CREDITS, true);
    ck_assert_uint_eq(read_at(map, 40, 4), 168);
    ck_assert_mem_eq(map + 4096 - 24, entries[167].session, 16);
    ck_assert_uint_eq(read_at(map, 24, 4), UINT32_C(0x80000000));
    ackpage_set_state(page, ACKPAGE_BUSY); /* which bit 31 outlives */
    ck_assert_uint_eq(read_at(map, 24, 4), UINT32_C(0x80000001));
    ackpage_set_credit(page, NULL, 0, false);
    ck_assert_uint_eq(read_at(map, 40, 4), 0);
    ck_assert_uint_eq(read_at(map, 24, 4), 1);
    for (size_t i = 64; i < 4096; i++)
        ck_assert_uint_eq(map[i], 0);
    generation = read_at(map, 32, 8);
    ackpage_set_credit(page, NULL, 0, false); /* nothing to change: nothing is written */
    ck_assert_uint_eq(read_at(map, 32, 8), generation);
    ackpage_unmap(page);
    munmap(map, 4096);
    close(fd);
}
END_TEST

/* A worker that was held up for long must see that the table is another, though the page was attached again meanwhile. */
START_TEST(generation_never_comes_again)
{
    struct ackpage_credit entry = {.state = 2};
    uint64_t last;
    uint8_t *map;
    int fd;
    struct ackpage *page = begin_page(&map, &fd);

    last = read_at(map, 32, 8);
    for (int i = 0; i < 10; i++) {
        ackpage_set_credit(page, &entry, 1, false);
        ck_assert_uint_gt(read_at(map, 32, 8), last);
        last = read_at(map, 32, 8);
        ackpage_unmap(page);
        ck_assert_int_eq(ackpage_map(&page, fd), 0);
        ackpage_begin(page, i < 5 ? 1000 : 2000, 0, ACKPAGE_OK, 0);
        ck_assert_uint_gt(read_at(map, 32, 8), last);
        ck_assert_uint_eq(read_at(map, 40, 4), 0);
        last = read_at(map, 32, 8);
    }
    ackpage_unmap(page);
    munmap(map, 4096);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ackpage");
    TCase *tests = tcase_create("ackpage");

    tcase_add_test(tests, memfds_of_the_wrong_size_or_without_seals_are_refused);
    tcase_add_test(tests, page_opened_for_reading_only_is_refused);
    tcase_add_test(tests, other_descriptors_are_refused);
    tcase_add_test(tests, worker_reads_what_the_protocol_says);
    tcase_add_test(tests, credit_table_is_what_the_protocol_says);
    tcase_add_test(tests, generation_never_comes_again);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
