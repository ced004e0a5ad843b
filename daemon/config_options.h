/* The table of options, for the files of config only. */
#ifndef TOLL_DAEMON_CONFIG_OPTIONS_H
#define TOLL_DAEMON_CONFIG_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum config_type {
    CONFIG_STRING,   /* char * */
    CONFIG_PATH,     /* char *, not empty; max: bytes */
    CONFIG_INT,      /* int64_t */
    CONFIG_BYTES,    /* int64_t; K, M, G */
    CONFIG_DURATION, /* int64_t µs; us, ms, s, m, h, d */
    CONFIG_MODE,     /* int, octal */
    CONFIG_BOOL,     /* bool */
    CONFIG_ENUM,     /* int: index into names */
};

struct config_option {
    const char *section, *key, *value; /* the default, as it stands in a file */
    size_t offset;                     /* in struct config */
    int64_t min, max;
    const char *const *names; /* CONFIG_ENUM: NULL-terminated */
    const char *env;          /* the environment variable that wins over the file, or NULL */
    const char *doc;
    enum config_type type;
    bool reloadable, secret;
};

extern const struct config_option config_options[];
extern const size_t config_options_count;

#endif
