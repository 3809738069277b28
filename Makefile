# make            build/plexus, build/libplexus.a, build/libplexus.so
# make demo       install what is missing, build, train one small model per mixer, compare      (TEXT=file: your text)
# make demo-chat get a small pretrained model (93 MB, once) and ask it something (QUESTION="...")
# make check      build and run all tests; closes with "N passed, N failed"
# make sanitize   the tests again under address and undefined-behaviour sanitizers
# make fuzz       60 seconds (FUZZ_SECONDS) of libFuzzer for each parser
# make clang      the whole build with clang, warnings as errors
# make bench      every operation's speed and error (plexus bench), and build/bench.html
# make bench-peers  PyTorch beside Plexus, in a virtual environment of its own (PEERS_PYTHON=: one that has torch and
#                 transformers), into docs/results/peers.md (PEERS_PAGE=): six minutes (ROWS=PATTERN: some rows again)
# make deps       install the packages that the others need
# make install    PREFIX=/usr/local
CC = gcc
BUILD = build
OPT = -O3
LEVELED_OPT = $(OPT)
# Lines and functions, for traces; make DEBUG=-g for variables too, which takes two thirds more time to compile
DEBUG = -g1
# clang warns where it does not unroll a loop as asked: that is slower, not wrong (gcc does not know the warning)
FLAGS = -std=gnu11 $(DEBUG) -Wall -Wextra -Werror -Wno-pass-failed -fPIC -fopenmp -fno-math-errno -fno-trapping-math
CFLAGS = $(FLAGS) $(OPT)
CPPFLAGS = -Iinclude -Isrc -D_GNU_SOURCE
LDLIBS = -lopenblas -ljansson -lyaml -lzstd -lpcre2-8 -lutf8proc -lm
PREFIX = /usr/local
# make V=1 shows whole commands
Q = $(if $(V),,@)
SAY = @echo " "

SOURCES := $(sort $(shell find src -name '*.c' -not -path 'src/cli/*'))
LEVELED := $(foreach f,$(SOURCES),$(if $(findstring /cpu/,$(f)),$(f)))
TILED   := $(foreach f,$(SOURCES),$(if $(findstring /amx/,$(f)),$(f)))
VNNI    := $(foreach f,$(SOURCES),$(if $(findstring /vnni/,$(f)),$(f)))
PLAIN   := $(filter-out $(LEVELED) $(TILED) $(VNNI),$(SOURCES))
CLI     := $(sort $(wildcard src/cli/*.c))
ARCH    := $(shell uname -m)
LEVELS  := portable $(if $(filter x86_64,$(ARCH)),avx2 avx512)
FLAGS_portable =
FLAGS_avx2   = -mavx2 -mfma
TILES := emulated $(if $(filter x86_64,$(ARCH)),bf16 amx)
# Only tests and the error columns of plexus bench run it
FLAGS_emulated = -DPLX_TILES_EMULATED_HERE -Wno-psabi $(if $(filter -O3,$(LEVELED_OPT)),-O2 -DPLX_TILES_CALLED)
FLAGS_bf16   = $(FLAGS_avx512) -mavx512bf16 -mavx512vbmi
FLAGS_amx    = $(FLAGS_bf16) -mamx-tile -mamx-bf16 -mamx-int8
FLAGS_avx512 = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512
FLAGS_vnni   = $(FLAGS_avx512) -mavx512vnni

TILED_bf16 := $(filter-out %/packed.c %_terms.c,$(TILED))
TILED_amx := $(TILED)
TILED_emulated := $(TILED)

OBJECTS := $(PLAIN:%.c=$(BUILD)/%.o) $(foreach l,$(LEVELS),$(LEVELED:%.c=$(BUILD)/%.$(l).o)) \
           $(foreach l,$(TILES),$(TILED_$(l):%.c=$(BUILD)/%.$(l).o)) \
           $(if $(filter x86_64,$(ARCH)),$(VNNI:%.c=$(BUILD)/%.vnni.o))
CLI_OBJECTS := $(CLI:%.c=$(BUILD)/%.o)

all: $(BUILD)/plexus $(BUILD)/libplexus.a $(BUILD)/libplexus.so

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@
define LEVEL_RULE
$(BUILD)/%.$(1).o: %.c
	@mkdir -p $$(@D)
	$$(SAY) CC $$< for $(1)
	$$(Q)$$(CC) $$(CPPFLAGS) $$(FLAGS) $$(LEVELED_OPT) $$(FLAGS_$(1)) -DPLX_LEVEL_NAME=$(1) -MMD -MP -c $$< -o $$@
endef
$(foreach l,$(LEVELS) $(TILES) vnni,$(eval $(call LEVEL_RULE,$(l))))

$(BUILD)/libplexus.a: $(OBJECTS)
	@rm -f $@
	$(SAY) AR $@
	$(Q)ar rcs $@ $^
$(BUILD)/libplexus.so: $(OBJECTS)
	$(SAY) LD $@
	$(Q)$(CC) -shared $(OPT) -fopenmp -o $@ $^ $(LDLIBS)
$(BUILD)/plexus: $(CLI_OBJECTS) $(BUILD)/libplexus.a
	$(SAY) LD $@
	$(Q)$(CC) $(OPT) -fopenmp -o $@ $^ $(LDLIBS)

include tests/tests.mk

# Builds on all processors, unless make was told how many.
ALL_CORES = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))
demo:
	@scripts/deps demo
	@$(MAKE) --no-print-directory $(ALL_CORES) all
	@scripts/demo $(BUILD) "$(TEXT)"
demo-chat:
	@scripts/deps build
	@$(MAKE) --no-print-directory $(ALL_CORES) all
	@scripts/demo-chat $(BUILD) "$(QUESTION)"
deps:
	@scripts/deps all

bench: all
	$(BUILD)/plexus bench --html $(BUILD)/bench.html
PEERS_PAGE = docs/results/peers.md
PEERS_PYTHON = $(BUILD)/peers/bin/python
$(BUILD)/peers/bin/python:
	@rm -rf $(BUILD)/peers.part
	python3 -m venv $(BUILD)/peers.part
	$(BUILD)/peers.part/bin/pip install torch numpy transformers
	mv $(BUILD)/peers.part $(BUILD)/peers
bench-peers: all $(PEERS_PYTHON)
	$(PEERS_PYTHON) bench/peers/run.py $(BUILD)/plexus --rows "$(ROWS)" --save $(BUILD)/peers.json --page $(PEERS_PAGE)

# The tests again, with every address and undefined operation checked: ten times as slow.
sanitize:
	TEST_SECONDS=$${TEST_SECONDS:-900} $(MAKE) --no-print-directory BUILD=build-sanitize \
	  OPT='-O1 -fsanitize=address,undefined -fno-sanitize-recover=all' check
clang:
	$(MAKE) --no-print-directory BUILD=build-clang CC=clang all tests

install: all
	install -d $(PREFIX)/bin $(PREFIX)/lib $(PREFIX)/include
	install -m 755 $(BUILD)/plexus $(PREFIX)/bin/
	install -m 644 $(BUILD)/libplexus.a $(BUILD)/libplexus.so $(PREFIX)/lib/
	install -m 644 include/plexus.h $(PREFIX)/include/
clean:
	rm -rf $(BUILD) build-sanitize build-clang build-fuzz
.PHONY: all demo demo-chat deps bench bench-peers sanitize clang install clean
-include $(OBJECTS:.o=.d) $(CLI_OBJECTS:.o=.d)
