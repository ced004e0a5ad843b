/* UTF-8 as PostgreSQL takes it: checks text, and mends what is not clean.
 *
 * Clean means well-formed (no surrogates, no overlong forms, nothing above U+10FFFF) and without U+0000. It
 * does not normalise and knows nothing of JSON. */
#ifndef TOLL_PROTO_UTF8_H
#define TOLL_PROTO_UTF8_H

#include <stdbool.h>
#include <stddef.h>

enum { TOLL_UTF8_GROWTH = 3 }; /* mended text is at most this many times as long: one bad byte becomes U+FFFD */

/* True if all size bytes are clean. */
bool toll_utf8_clean(const char *text, size_t size) __attribute__((warn_unused_result));

/* Copies text to out with each U+0000 and each ill-formed sequence replaced by one U+FFFD; an ill-formed
 * sequence is the longest start of a well-formed one, or one byte (the Unicode standard's recommendation, and
 * what Python and browsers do). out holds TOLL_UTF8_GROWTH × size bytes and does not overlap text. Returns
 * the bytes written. */
size_t toll_utf8_mend(const char *text, size_t size, char *out);

/* The same into a small buffer of cap ≥ 1 bytes: what does not fit is cut between two characters, and a NUL
 * ends it. Nothing of text is read beyond size. */
void toll_utf8_copy(const char *text, size_t size, char *out, size_t cap);

/* The sequence at the start of text, size ≥ 1: its bytes in *ret_size, and whether it is clean or is to be
 * replaced. */
bool toll_utf8_next(const char *text, size_t size, size_t *ret_size);

#endif
