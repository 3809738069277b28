/* test_regex.c - expressions against what the tokenizers package finds (tests/golden/regex.json, made by
 * tests/checks/regex_equal.py, which compares the two over all of Unicode). */
#include "support/files.h"

#include "text/chars.h"
#include "text/regex.h"

#include <string.h>

static json_t *golden;

static int open_golden(void **state)
{
    (void)state;
    json_error_t error;
    golden = json_load_file("tests/golden/regex.json", 0, &error);
    return golden == NULL;
}

static int close_golden(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

/* The text with a mark in place of each match. */
static void replace(plx_context *context, plx_regex *regex, const char *text, plx_text_buffer *out)
{
    size_t count = strlen(text), from = 0, kept = 0, begin, end;
    bool found = true;
    for (;;) {
        expect_ok(context, plx_regex_find(regex, text, count, from, &found, &begin, &end));
        if (!found) break;
        assert_true(end > begin);
        expect_ok(context, plx_text_append(context, out, text + kept, begin - kept));
        expect_ok(context, plx_text_append(context, out, "\xe2\x82\xac", 3));
        from = kept = end;
    }
    expect_ok(context, plx_text_append(context, out, text + kept, count - kept));
}

static void test_equal(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    plx_place place = {.context = context, .file = "t.json", .path = ""};
    const char *text = json_string_value(json_object_get(golden, "text"));
    json_t *pair;
    size_t i;
    json_array_foreach(json_object_get(golden, "equal"), i, pair)
    {
        const char *pattern = json_string_value(json_array_get(pair, 0));
        const char *want = json_string_value(json_array_get(pair, 1));
        plx_regex *regex;
        plx_text_buffer out = {0};
        expect_ok(context, plx_regex_open(&place, "pattern", pattern, false, &regex));
        replace(context, regex, text, &out);
        if (out.count != strlen(want) || memcmp(out.bytes, want, out.count) != 0)
            fail_msg("%s: '%.*s', not '%s'", pattern, (int)out.count, out.bytes, want);
        plx_free(context, out.bytes);
        plx_regex_close(regex);
    }
    plx_context_free(context);
}

static void test_refused(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    plx_place place = {.context = context, .file = "t.json", .path = "normalizer"};
    json_t *pattern;
    size_t i;
    json_array_foreach(json_object_get(golden, "refused"), i, pattern)
    {
        plx_regex *regex;
        if (plx_regex_open(&place, "pattern", json_string_value(pattern), false, &regex) == PLX_OK)
            fail_msg("%s was taken", json_string_value(pattern));
        assert_null(regex);
        assert_non_null(strstr(plx_context_error(context)->message, "t.json: normalizer.pattern: "));
    }
    plx_context_free(context);
}

/* Groups inside each other, names and classes without an end: refused. */
static void test_hostile(void **state)
{
    (void)state;
    static const char *const patterns[] = {
        "(?", "(?#", "[", "[^", "[[:", "[[:alpha:", "\\", "\\p", "\\p{", "\\u12", "[\\"};
    plx_context *context = test_context(1, NULL, NULL);
    plx_place place = {.context = context, .file = "t.json", .path = ""};
    plx_regex *regex;
    char deep[401];
    memset(deep, '(', 200);
    memset(deep + 200, ')', 200);
    deep[400] = '\0';
    expect_error(context, PLX_ERROR_UNSUPPORTED, "t.json: pattern: more than 64 groups inside each other",
                 plx_regex_open(&place, "pattern", deep, false, &regex));
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        plx_status status = plx_regex_open(&place, "pattern", patterns[i], false, &regex);
        if (status != PLX_ERROR_FORMAT && status != PLX_ERROR_UNSUPPORTED) fail_msg("%s was taken", patterns[i]);
        plx_regex_close(regex);
    }
    plx_context_free(context);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests_name("regex", tests, open_golden, close_golden);
}
