# tests.mk - how the tests are built and run. A test program is one tests/test_*.c (cmocka) or tests/cli/*.sh.
TEST_SOURCES := $(sort $(wildcard tests/test_*.c))
TEST_SUPPORT := $(sort $(wildcard tests/support/*.c))
TESTS := $(TEST_SOURCES:%.c=$(BUILD)/%)
TEST_OBJECTS := $(TEST_SUPPORT:%.c=$(BUILD)/%.o)

$(BUILD)/tests/%: tests/%.c $(TEST_OBJECTS) $(BUILD)/libplexus.a
	@mkdir -p $(@D)
	$(SAY) LD $@
	$(Q)$(CC) $(CPPFLAGS) -Itests $(CFLAGS) -MMD -MP $< $(TEST_OBJECTS) $(BUILD)/libplexus.a -lcmocka $(LDLIBS) -o $@
$(BUILD)/tests/support/%.o: tests/support/%.c
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CPPFLAGS) -Itests $(CFLAGS) -MMD -MP -c $< -o $@

# Programs that the scripts of tests/checks run.
$(BUILD)/tests/checks/%: tests/checks/%.c $(BUILD)/libplexus.a
	@mkdir -p $(@D)
	$(SAY) LD $@
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $< $(BUILD)/libplexus.a $(LDLIBS) -o $@

.SECONDARY: $(TEST_OBJECTS)
tests: $(TESTS)
check:
	@scripts/deps check
	@$(MAKE) --no-print-directory all tests
	tests/run $(BUILD)

# The kernels of src/**/cpu/ are not instrumented: no parser is among them, and clang takes minutes for each.
# Fuzzing: each tests/fuzz/fuzz_NAME.c for FUZZ_SECONDS from its committed corpus, two at a time.
FUZZ_SECONDS = 60
FUZZ_BUILD = build-fuzz
FUZZ_FLAGS = -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
FUZZERS := $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
$(BUILD)/fuzz/%: tests/fuzz/%.c $(BUILD)/libplexus.a
	@mkdir -p $(@D)
	$(SAY) LD $@
	$(Q)$(CC) $(CPPFLAGS) -Itests $(CFLAGS) -fsanitize=fuzzer $< $(BUILD)/libplexus.a $(LDLIBS) -o $@
fuzzers: $(FUZZERS:%=$(BUILD)/fuzz/%)
fuzz:
	$(MAKE) --no-print-directory BUILD=$(FUZZ_BUILD) CC=clang OPT='$(FUZZ_FLAGS)' LEVELED_OPT=-O1 fuzzers
	tests/fuzz/run $(FUZZ_BUILD) $(FUZZ_SECONDS)
.PHONY: tests check fuzzers fuzz
-include $(TESTS:=.d) $(TEST_OBJECTS:.o=.d)
