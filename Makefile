# toll: builds the daemon (tolld), its tool (tollctl), the simulator (tollsim) and the worker's library (libtoll).
# `make` builds, `make test` and `make demo` also install the Debian packages they need.

VERSION := $(shell sed -n 's/^\#define TOLL_VERSION "\(.*\)"/\1/p' daemon/version.h)
BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
CC      ?= cc
CLANG   ?= clang
O       ?= -O2

PACKAGES := libuv libpq msgpack uuid inih libsystemd
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2
ifdef CI
WARNINGS += -Werror
endif
SANITIZE ?=
CPPFLAGS += -D_GNU_SOURCE -I. -I$(BUILD)/generated $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
CFLAGS   ?= -g $(O)
# The daemon is compiled as one (daemon/DESIGN.md says what it saves). Its objects hold both, so that tests link without it.
LTO ?= $(if $(SANITIZE)$(findstring clang,$(CC)),,-flto=auto -ffat-lto-objects)
ALL_CFLAGS = -std=gnu11 $(WARNINGS) -fno-lto -fno-omit-frame-pointer $(CFLAGS) $(SANITIZE)
LDLIBS_DAEMON = $(shell pkg-config --libs $(PACKAGES)) -lpthread -lm

# The libraries' sources are found by name; programs have one main each.
CLIENT_SRC := $(filter-out client/tollsim.c,$(sort $(wildcard client/*.c))) proto/encode.c proto/walk.c
DAEMON_SRC := $(filter-out daemon/main.c daemon/tollctl.c,$(sort $(wildcard daemon/*.c))) $(sort $(wildcard proto/*.c))
MIGRATIONS := $(sort $(wildcard sql/migrations/*.sql sql/functions/*.sql sql/views/*.sql sql/roles.sql))
UNIT_SRC   := $(sort $(wildcard tests/unit/test_*.c))
SUPPORT_C  := $(sort $(wildcard tests/support/*.c))
FAULT_SRC  := $(sort $(wildcard tests/fault/*.c))
PRELOAD_SRC := $(sort $(wildcard tests/fault/preload/*.c))
FUZZ_SRC   := $(sort $(wildcard tests/fuzz/fuzz_*.c))
BENCH_SRC  := $(sort $(wildcard tests/bench/*.c))
PAGES      := $(sort $(wildcard man/*.[1-8]))
FUNCTIONS  := $(shell sed -n 's/^\.Nm \(toll_[a-z_]*\).*/\1/p' man/toll.3)

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
PIC = $(patsubst %.c,$(BUILD)/pic/%.o,$(CLIENT_SRC))
DAEMON_OBJ := $(call obj,$(DAEMON_SRC)) $(BUILD)/obj/generated/migrations.o
UNIT_BIN   := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(UNIT_SRC))
SUPPORT_BIN := $(patsubst tests/support/%.c,$(BUILD)/tests/support/%,$(SUPPORT_C))
FAULT_BIN  := $(patsubst tests/fault/%.c,$(BUILD)/tests/fault/%,$(FAULT_SRC)) \
              $(patsubst tests/fault/preload/%.c,$(BUILD)/tests/fault/%.so,$(PRELOAD_SRC))
FUZZ_BIN   := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(FUZZ_SRC))
BENCH_BIN  := $(patsubst tests/bench/%.c,$(BUILD)/tests/bench/%,$(BENCH_SRC))

.PHONY: all deps demo test check fault bench bench-long fuzz asan tsan lint format install uninstall clean
.DELETE_ON_ERROR:

all: $(BUILD)/tolld $(BUILD)/tollctl $(BUILD)/tollsim $(BUILD)/libtoll.a $(BUILD)/libtoll.so.0

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(if $(filter daemon/% proto/%,$<),$(LTO)) -MMD -MP -c -o $@ $<

$(BUILD)/pic/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -fPIC -fno-plt -fvisibility=hidden -MMD -MP -c -o $@ $<

$(BUILD)/obj/generated/%.o: $(BUILD)/generated/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -c -o $@ $<

# The migrations travel inside tolld, so that a binary and its schema can't be parted.
$(BUILD)/generated/migrations.c: $(MIGRATIONS) sql/embed.sh
	@mkdir -p $(@D)
	sh sql/embed.sh $(MIGRATIONS) > $@

$(BUILD)/libtolld.a: $(DAEMON_OBJ)
	rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/tolld: $(BUILD)/obj/daemon/main.o $(BUILD)/libtolld.a
	$(CC) $(ALL_CFLAGS) $(LTO) $(if $(LTO),-Wno-maybe-uninitialized) $(LDFLAGS) -o $@ $^ $(LDLIBS_DAEMON)

$(BUILD)/tollctl: $(BUILD)/obj/daemon/tollctl.o $(BUILD)/libtolld.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS_DAEMON)

$(BUILD)/libtoll.a: $(PIC)
	rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libtoll.so.0: $(PIC)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -shared -Wl,-soname,libtoll.so.0 -o $@ $^
	ln -sf libtoll.so.0 $(BUILD)/libtoll.so

$(BUILD)/tollsim: $(BUILD)/obj/client/tollsim.o $(BUILD)/libtoll.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ -lpthread -lm

# --- tests -----------------------------------------------------------------------------------------------------
$(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o $(BUILD)/libtoll.a $(BUILD)/libtolld.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs check jansson) $(LDLIBS_DAEMON)

$(BUILD)/tests/support/%: $(BUILD)/obj/tests/support/%.o $(BUILD)/libtoll.a $(BUILD)/libtolld.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS_DAEMON)

# The benchmark's programs: workers linked with libtoll, and what it is compared with, which needs libpq.
$(BUILD)/tests/bench/%: $(BUILD)/obj/tests/bench/%.o $(BUILD)/libtoll.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs libpq) -lpthread -lm

# A program of the fault tests. More sources of its own stand in tests/fault/NAME/; linked before the libraries, they can
# stand in for parts of the daemon and of the world around it. NAME.ldflags holds more flags for the linker.
.SECONDEXPANSION:
$(BUILD)/tests/fault/%: $(BUILD)/obj/tests/fault/%.o $$(call obj,$$(sort $$(wildcard tests/fault/$$*/*.c))) \
		$(BUILD)/libtoll.a $(BUILD)/libtolld.a $$(wildcard tests/fault/$$*.ldflags)
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $(shell cat tests/fault/$*.ldflags 2>/dev/null) -o $@ $(filter %.o %.a,$^) \
		$(shell pkg-config --libs check) $(LDLIBS_DAEMON)

# For LD_PRELOAD, so without sanitizers.
$(BUILD)/tests/fault/%.so: tests/fault/preload/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -std=gnu11 $(WARNINGS) -g -O2 -fPIC -shared -o $@ $< -ldl

# The migrations without the daemon, with sanitizers always.
$(BUILD)/tests/sql/migrate: tests/sql/migrate.c daemon/migrate.c daemon/migrate.h $(BUILD)/generated/migrations.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -std=gnu11 $(WARNINGS) -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -o $@ $(filter %.c,$^) \
		$(shell pkg-config --libs libpq)

tests-build: all $(UNIT_BIN) $(SUPPORT_BIN) $(FAULT_BIN) $(BENCH_BIN) $(BUILD)/tests/sql/migrate
.PHONY: tests-build

deps:
	@sh tests/support/deps.sh

test: deps
	@$(MAKE) --no-print-directory check

check: tests-build
	@BUILD=$(BUILD) sh tests/run.sh

# The sanitizers run the same suite; leaks, data races and undefined behaviour fail it.
asan: deps
	@$(MAKE) --no-print-directory check BUILD=build/asan O=-O1 SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=undefined'

tsan: deps
	@$(MAKE) --no-print-directory check BUILD=build/tsan O=-O1 SANITIZE=-fsanitize=thread

# The long version of every fault test, one at a time, for its figures; `check` runs the short one.
fault: deps
	@$(MAKE) --no-print-directory tests-build
	@BUILD=$(BUILD) TOLL_LONG=1 TOLL_JOBS=1 TESTS=fault sh tests/run.sh

# How fast it is, beside what it could be replaced with: a table, and $(BUILD)/bench.json. T=name: one section of it. BENCH=long, or
# bench-long: the full sizes, which take half an hour and more, and 30 GB. See tests/bench/README.md.
BENCH ?= short
bench: deps
	@$(MAKE) --no-print-directory all $(BENCH_BIN) $(BUILD)/tests/support/payer
	@TOLL_BUILD=$(BUILD) /usr/bin/python3 tests/bench/bench.py --size $(BENCH) --json $(BUILD)/bench.json $(T)

bench-long:
	@$(MAKE) --no-print-directory bench BENCH=long

FUZZ_SECONDS ?= 30
$(BUILD)/fuzz/%: tests/fuzz/%.c $(DAEMON_SRC) $(BUILD)/generated/migrations.c
	@mkdir -p $(@D)
	$(CLANG) $(CPPFLAGS) -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -o $@ $^ $(LDLIBS_DAEMON)

fuzz: deps
	@$(MAKE) --no-print-directory $(FUZZ_BIN)
	@BUILD=$(BUILD) sh tests/fuzz/run.sh $(FUZZ_SECONDS)

demo: deps
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) KEEP=$(KEEP) sh tests/support/demo.sh

lint: deps compile_commands.json
	@BUILD=$(BUILD) sh tests/lint/run.sh

format:
	clang-format -i $$(git ls-files '*.c' '*.h')

LINT_SRC = $(sort $(DAEMON_SRC) $(CLIENT_SRC) daemon/main.c daemon/tollctl.c client/tollsim.c $(UNIT_SRC) $(SUPPORT_C) $(FUZZ_SRC) \
           $(FAULT_SRC) $(sort $(wildcard tests/fault/*/*.c)) $(BENCH_SRC))
compile_commands.json: Makefile $(LINT_SRC)
	@sh tests/lint/compile_commands.sh '$(CC) $(CPPFLAGS) -std=gnu11 $(WARNINGS)' $(LINT_SRC) > $@

# --- installation ----------------------------------------------------------------------------------------------
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/sysctl.d $(DESTDIR)$(PREFIX)/share/toll/sql $(DESTDIR)$(PREFIX)/share/toll/seed
	install -m 755 $(BUILD)/tolld $(DESTDIR)$(PREFIX)/sbin/tolld
	install -m 755 $(BUILD)/tollctl $(BUILD)/tollsim $(DESTDIR)$(PREFIX)/bin/
	install -m 644 client/toll.h $(DESTDIR)$(PREFIX)/include/toll.h
	install -m 644 $(BUILD)/libtoll.a $(DESTDIR)$(PREFIX)/lib/libtoll.a
	install -m 755 $(BUILD)/libtoll.so.0 $(DESTDIR)$(PREFIX)/lib/libtoll.so.0
	ln -sf libtoll.so.0 $(DESTDIR)$(PREFIX)/lib/libtoll.so
	sed -e 's|@prefix@|$(PREFIX)|g' -e 's|@version@|$(VERSION)|g' client/toll.pc.in > $(DESTDIR)$(PREFIX)/lib/pkgconfig/toll.pc
	sed -e 's|@sbindir@|$(PREFIX)/sbin|g' systemd/tolld.service.in > $(DESTDIR)$(PREFIX)/lib/systemd/system/tolld.service
	install -m 644 systemd/tolld.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/tolld.socket
	install -m 644 systemd/toll.sysctl.conf $(DESTDIR)$(PREFIX)/lib/sysctl.d/50-toll.conf
	install -m 644 sql/roles.sql $(DESTDIR)$(PREFIX)/share/toll/sql/
	install -m 644 $(sort $(wildcard sql/seed/*.csv)) $(DESTDIR)$(PREFIX)/share/toll/seed/
	for page in $(PAGES); do install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man$${page##*.} $$page || exit 1; done
	for function in $(FUNCTIONS); do ln -sf toll.3 $(DESTDIR)$(PREFIX)/share/man/man3/$$function.3 || exit 1; done

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/sbin/tolld $(addprefix $(DESTDIR)$(PREFIX)/bin/,tollctl tollsim) $(DESTDIR)$(PREFIX)/include/toll.h
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/lib/,libtoll.a libtoll.so libtoll.so.0 pkgconfig/toll.pc)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/lib/,systemd/system/tolld.service systemd/system/tolld.socket sysctl.d/50-toll.conf)
	rm -f $(foreach page,$(PAGES),$(DESTDIR)$(PREFIX)/share/man/man$(subst .,,$(suffix $(page)))/$(notdir $(page)))
	rm -f $(patsubst %,$(DESTDIR)$(PREFIX)/share/man/man3/%.3,$(FUNCTIONS))
	rm -rf $(DESTDIR)$(PREFIX)/share/toll

clean:
	rm -rf build compile_commands.json

.SECONDARY:
-include $(shell find $(BUILD)/obj $(BUILD)/pic -name '*.d' 2>/dev/null)
