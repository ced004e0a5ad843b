/* CRC-32C: known values, and that instruction and tables agree. */
#include "daemon/crc32c.h"

#include <check.h>
#include <string.h>

START_TEST(crc32c_known_values)
{
    uint8_t bytes[32];

    ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xE3069283);
    ck_assert_uint_eq(crc32c(0, "", 0), 0);
    memset(bytes, 0, sizeof bytes); /* RFC 3720, B.4 */
    ck_assert_uint_eq(crc32c(0, bytes, 32), 0x8A9136AA);
    memset(bytes, 0xff, sizeof bytes);
    ck_assert_uint_eq(crc32c(0, bytes, 32), 0x62A8AB43);
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)i;
    ck_assert_uint_eq(crc32c(0, bytes, 32), 0x46DD794E);
    ck_assert_uint_eq(crc32c_portable(0, bytes, 32), 0x46DD794E);
}
END_TEST

START_TEST(crc32c_ways_agree_at_every_size_offset_and_split)
{
    uint8_t bytes[80];

    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 151 + 7);
    for (size_t from = 0; from < 9; from++)
        for (size_t size = 0; from + size <= sizeof bytes; size++) {
            uint32_t whole = crc32c(0, bytes + from, size);
            ck_assert_uint_eq(whole, crc32c_portable(0, bytes + from, size));
            for (size_t split = 0; split <= size; split++)
                ck_assert_uint_eq(whole, crc32c(crc32c(0, bytes + from, split), bytes + from + split, size - split));
        }
}
END_TEST

START_TEST(crc32c_ways_agree_on_long_pieces)
{
    static uint8_t bytes[5000];
    uint32_t seed = 20261122;

    for (unsigned i = 0; i < sizeof bytes; i++) {
        seed = seed * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(seed >> 24);
    }
    for (size_t size = 0; size < sizeof bytes - 8; size++)
        ck_assert_uint_eq(crc32c((uint32_t)size, bytes + size % 8, size),
                          crc32c_portable((uint32_t)size, bytes + size % 8, size));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("crc32c");
    TCase *tcase = tcase_create("crc32c");
    tcase_add_test(tcase, crc32c_known_values);
    tcase_add_test(tcase, crc32c_ways_agree_at_every_size_offset_and_split);
    tcase_add_test(tcase, crc32c_ways_agree_on_long_pieces);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
