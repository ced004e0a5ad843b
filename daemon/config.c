/* Reads the configuration from file and environment. See config.h.
 *
 * libinih splits the file into lines, sections and values; which options there are is config_options.c's,
 * what a value may be is config_value.c's business. */
#include "daemon/config.h"
#include "daemon/config_options.h"
#include "daemon/config_value.h"

#include <assert.h>
#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_LENGTH = 4096, OPTIONS_MAX = 64 };

/* Debian's libinih takes the length of a line at run time; where the library lacks this, a line is as long as
 * it was built for. */
#pragma weak ini_max_line

struct parse {
    struct config *config;
    const char *path;
    FILE *file;
    int line;             /* the one read last */
    int set[OPTIONS_MAX]; /* the line that set an option; 0: none yet */
    int error_line;
    int result; /* 0 so far, or -EINVAL, -ENOMEM */
    char *error;
};

static void __attribute__((format(printf, 3, 4))) parse_fail(struct parse *parse, int result, const char *format, ...)
{
    va_list args;
    int n;

    if (parse->result < 0)
        return;
    parse->result = result;
    parse->error_line = parse->line;
    n = snprintf(parse->error, CONFIG_ERROR_MAX, "%.128s:%d: ", parse->path, parse->line);
    va_start(args, format);
    vsnprintf(parse->error + n, CONFIG_ERROR_MAX - (size_t)n, format, args);
    va_end(args);
}

/* Gives libinih a line; counts it; without its indentation, which libinih would take for the continuation of
 * the line before. */
static char *read_line(char *buf, int size, void *context)
{
    struct parse *parse = context;
    size_t len, indent;

    if (parse->result < 0 || !fgets(buf, size, parse->file))
        return NULL;
    parse->line++;
    len = strlen(buf);
    if (len + 1 == (size_t)size && buf[len - 1] != '\n') {
        parse_fail(parse, -EINVAL, "the line is longer than %d bytes", size - 2);
        return NULL;
    }
    indent = strspn(buf, " \t");
    memmove(buf, buf + indent, len + 1 - indent);
    return buf;
}

static const struct config_option *find_option(const char *section, const char *key)
{
    for (size_t i = 0; i < config_options_count; i++)
        if (strcmp(config_options[i].section, section) == 0 && strcmp(config_options[i].key, key) == 0)
            return &config_options[i];
    return NULL;
}

/* A connection string in the wrong place must not end up in the log either. */
static const char *showable(const char *key, const char *value)
{
    bool secret = strstr(key, "url") || strstr(key, "URL") || strstr(key, "password") || strstr(value, "://") ||
                  strstr(value, "password");

    return secret ? "(not shown)" : value;
}

/* libinih's results are the other way round: 1 is good. */
static int take_option(void *context, const char *section, const char *key, const char *value)
{
    struct parse *parse = context;
    const struct config_option *option = find_option(section, key);
    char reason[CONFIG_REASON_MAX];
    int *set, r;

    if (parse->result < 0)
        return 0;
    if (!option) {
        parse_fail(parse, -EINVAL,
                   "unknown option \"%.60s\" in %s%.60s%s (value \"%.100s\"); tolld --help lists the options", key,
                   section[0] ? "section [" : "no section", section, section[0] ? "]" : "", showable(key, value));
        return 0;
    }
    set = &parse->set[option - config_options];
    if (*set > 0) {
        parse_fail(parse, -EINVAL, "%s.%s is set on line %d already", section, key, *set);
        return 0;
    }
    *set = parse->line;
    r = config_value_set(parse->config, option, value, reason);
    if (r < 0) {
        parse_fail(parse, r, "%s.%s: %s", section, key, reason);
        return 0;
    }
    return 1;
}

static int read_file(struct config *config, const char *path, char error[static CONFIG_ERROR_MAX])
{
    struct parse parse = {.config = config, .path = path, .error = error};
    int syntax_line;

    parse.file = fopen(path, "re");
    if (!parse.file) {
        int r = -errno;

        snprintf(error, CONFIG_ERROR_MAX, "%.256s: %s", path, strerror(-r));
        return r;
    }
    if (&ini_max_line)
        ini_max_line = LINE_LENGTH;
    syntax_line = ini_parse_stream(read_line, &parse, take_option, &parse);
    if (parse.result == 0 && ferror(parse.file)) {
        parse.result = -EIO;
        snprintf(error, CONFIG_ERROR_MAX, "%.256s: can't be read (a directory?)", path);
    }
    /* libinih goes on after a line it does not understand and returns its number at the end. */
    if (syntax_line > 0 && (parse.result == 0 || syntax_line < parse.error_line)) {
        parse.result = 0;
        parse.line = syntax_line;
        parse_fail(&parse, -EINVAL, "neither a [section] nor an option = value");
    } else if (syntax_line < 0 && parse.result == 0) { /* -2: it found no memory, and has read nothing */
        parse_fail(&parse, -ENOMEM, "out of memory");
    }
    fclose(parse.file);
    return parse.result;
}

static int set_defaults(struct config *config, char error[static CONFIG_ERROR_MAX])
{
    char reason[CONFIG_REASON_MAX];

    assert(config_options_count <= OPTIONS_MAX);
    for (size_t i = 0; i < config_options_count; i++) {
        int r = config_value_set(config, &config_options[i], config_options[i].value, reason);

        assert(r != -EINVAL);
        if (r < 0) {
            snprintf(error, CONFIG_ERROR_MAX, "%s", reason);
            return r;
        }
    }
    return 0;
}

static int read_environment(struct config *config, char error[static CONFIG_ERROR_MAX])
{
    char reason[CONFIG_REASON_MAX];

    for (size_t i = 0; i < config_options_count; i++) {
        const char *env = config_options[i].env, *value = env ? getenv(env) : NULL;
        int r;

        if (!value || !value[0])
            continue;
        r = config_value_set(config, &config_options[i], value, reason);
        if (r < 0) {
            snprintf(error, CONFIG_ERROR_MAX, "environment variable %s: %s", env, reason);
            return r;
        }
    }
    return 0;
}

/* What no row can say alone. */
static int check_together(const struct config *config, char error[static CONFIG_ERROR_MAX])
{
    assert(config->daemon.socket && config->daemon.control); /* they have defaults */
    if (config->journal.max_bytes < 2 * config->journal.segment_bytes)
        snprintf(error, CONFIG_ERROR_MAX, "journal.max_bytes must be at least twice journal.segment_bytes");
    else if (config->limits.streams_per_uid > config->limits.streams)
        snprintf(error, CONFIG_ERROR_MAX, "limits.streams_per_uid is above limits.streams");
    else if (config->limits.pages_per_uid > config->limits.pages)
        snprintf(error, CONFIG_ERROR_MAX, "limits.pages_per_uid is above limits.pages");
    else if (strcmp(config->daemon.socket, config->daemon.control) == 0)
        snprintf(error, CONFIG_ERROR_MAX, "daemon.socket and daemon.control are the same path");
    else
        return 0;
    return -EINVAL;
}

int config_load(struct config *ret, const char *path, char error[static CONFIG_ERROR_MAX])
{
    struct config config = {0};
    int r = set_defaults(&config, error);

    if (r < 0)
        goto fail;
    r = read_file(&config, path ? path : CONFIG_DEFAULT_PATH, error);
    if (r < 0 && !(r == -ENOENT && !path))
        goto fail;
    r = read_environment(&config, error);
    if (r < 0)
        goto fail;
    r = check_together(&config, error);
    if (r < 0)
        goto fail;
    *ret = config;
    return 0;
fail:
    config_free(&config);
    return r;
}

void config_free(struct config *config)
{
    for (size_t i = 0; i < config_options_count; i++)
        config_value_free(config, &config_options[i]);
}

static void add_name(char names[static CONFIG_NAMES_MAX], const struct config_option *option)
{
    size_t len = strlen(names);

    snprintf(names + len, CONFIG_NAMES_MAX - len, "%s%s.%s", len > 0 ? ", " : "", option->section, option->key);
}

void config_reload(struct config *running, struct config *fresh, char ret_applied[static CONFIG_NAMES_MAX],
                   char ret_restart[static CONFIG_NAMES_MAX])
{
    ret_applied[0] = ret_restart[0] = '\0';
    for (size_t i = 0; i < config_options_count; i++) {
        const struct config_option *option = &config_options[i];

        if (config_value_equal(running, fresh, option))
            continue;
        if (option->reloadable)
            config_value_swap(running, fresh, option);
        add_name(option->reloadable ? ret_applied : ret_restart, option);
    }
    config_free(fresh);
}

void config_print_options(FILE *out)
{
    const char *section = "";
    char min[CONFIG_TEXT_MAX], max[CONFIG_TEXT_MAX];

    for (size_t i = 0; i < config_options_count; i++) {
        const struct config_option *option = &config_options[i];

        if (strcmp(section, option->section) != 0)
            fprintf(out, "%s[%s]\n", i > 0 ? "\n" : "", option->section);
        section = option->section;
        fprintf(out, "  %s = %s\n      %s", option->key, option->value, option->doc);
        switch (option->type) {
        case CONFIG_INT:
        case CONFIG_BYTES:
        case CONFIG_DURATION:
            fprintf(out, "; %s to %s", config_number_text(option->type, option->min, min),
                    config_number_text(option->type, option->max, max));
            break;
        case CONFIG_ENUM:
            for (int n = 0; option->names[n]; n++)
                fprintf(out, "%s%s", n > 0 ? ", " : ": ", option->names[n]);
            break;
        default:
            break;
        }
        fprintf(out, "%s%s%s%s\n", option->env ? " (environment: " : "", option->env ? option->env : "",
                option->env ? ")" : "", option->reloadable ? " (reloadable)" : "");
    }
}

void config_print(const struct config *config, FILE *out)
{
    const char *section = "";
    char buf[CONFIG_TEXT_MAX];

    for (size_t i = 0; i < config_options_count; i++) {
        const struct config_option *option = &config_options[i];
        const char *value = config_value_text(config, option, buf);

        if (strcmp(section, option->section) != 0)
            fprintf(out, "%s[%s]\n", i > 0 ? "\n" : "", option->section);
        section = option->section;
        fprintf(out, "%s%s = %s\n", value[0] && !option->secret ? "" : "# ", option->key, value);
    }
}

const char *config_ack_name(enum config_ack ack)
{
    const struct config_option *option = find_option("journal", "ack");

    return option->names[ack];
}
