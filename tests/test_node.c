/* test_node.c - trees of YAML and JSON, and reading keys from them: what is accepted, and each refusal with its
 * message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/node.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static plx_context *context;

static int set_up(void **state)
{
    (void)state;
    return plx_context_create(NULL, &context) != PLX_OK;
}

static int tear_down(void **state)
{
    (void)state;
    plx_context_free(context);
    return 0;
}

static const char *message(void) { return plx_context_error(context)->message; }

static plx_node *yaml(const char *text)
{
    plx_node *root = NULL;
    plx_status status = plx_node_parse_yaml(context, "r.yaml", text, strlen(text), &root);
    if (status != PLX_OK) fail_msg("%s", message());
    return root;
}

static plx_node *json(const char *text)
{
    plx_node *root = NULL;
    plx_status status = plx_node_parse_json(context, "c.json", text, strlen(text), &root);
    if (status != PLX_OK) fail_msg("%s", message());
    return root;
}

/* The text must be refused with this code and a message that holds `expected`. */
static void refused(bool is_json, const char *text, size_t length, plx_status code, const char *expected)
{
    plx_node *root = NULL;
    plx_status status = is_json ? plx_node_parse_json(context, "c.json", text, length, &root)
                                : plx_node_parse_yaml(context, "r.yaml", text, length, &root);
    assert_null(root);
    assert_int_equal(status, code);
    if (strstr(message(), expected) == NULL) fail_msg("'%s' has no '%s'", message(), expected);
}

/* ---- YAML ---- */

static void test_yaml_scalars(void **state)
{
    (void)state;
    const struct { const char *text; plx_node_kind kind; double number; } cases[] = {
        {"3", PLX_NODE_NUMBER, 3},         {"-17", PLX_NODE_NUMBER, -17},    {"+5", PLX_NODE_NUMBER, 5},
        {"3.0e-3", PLX_NODE_NUMBER, 3e-3}, {"1e-3", PLX_NODE_NUMBER, 1e-3},  {".1", PLX_NODE_NUMBER, 0.1},
        {"1.", PLX_NODE_NUMBER, 1},        {"1E6", PLX_NODE_NUMBER, 1e6},    {"0x1F", PLX_NODE_NUMBER, 31},
        {"0o17", PLX_NODE_NUMBER, 15},     {"007", PLX_NODE_NUMBER, 7},      {"1e-999", PLX_NODE_NUMBER, 0},
        {"true", PLX_NODE_BOOL, 1},        {"False", PLX_NODE_BOOL, 0},      {"null", PLX_NODE_NULL, 0},
        {"~", PLX_NODE_NULL, 0},           {"yes", PLX_NODE_STRING, 0},      {"'3'", PLX_NODE_STRING, 0},
        {"\"true\"", PLX_NODE_STRING, 0},  {"1e", PLX_NODE_STRING, 0},       {".", PLX_NODE_STRING, 0},
        {"1.2.3", PLX_NODE_STRING, 0},     {"0x", PLX_NODE_STRING, 0},       {"0x1G", PLX_NODE_STRING, 0},
        {"-", PLX_NODE_LIST, 0},           {"1_000", PLX_NODE_STRING, 0},    {"nan", PLX_NODE_STRING, 0},
        {"-0x1", PLX_NODE_STRING, 0},      {"''", PLX_NODE_STRING, 0},       {"", PLX_NODE_NULL, 0},
        {"# nothing", PLX_NODE_NULL, 0},   {"infinity", PLX_NODE_STRING, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        plx_node *root = yaml(cases[i].text);
        if (root->kind != cases[i].kind) fail_msg("'%s' is of kind %d", cases[i].text, (int)root->kind);
        if (root->kind == PLX_NODE_NUMBER) assert_true(root->number == cases[i].number);
        if (root->kind == PLX_NODE_NUMBER) assert_string_equal(root->text, cases[i].text);
        if (root->kind == PLX_NODE_BOOL) assert_int_equal(root->truth, (bool)cases[i].number);
        plx_node_free(context, root);
    }
}

static void test_yaml_tree(void **state)
{
    (void)state;
    plx_node *root = yaml("# a recipe\nmodel: {hidden: 128, layers: [{mixer: attention}, 5]}\ntrain:\n  lr: 1e-3\n"
                          "  text: \"caf\\u00e9 \\\" x\"\n\n  empty:\n");
    assert_int_equal(root->kind, PLX_NODE_MAP);
    assert_int_equal(root->count, 2);
    const plx_node *train = plx_node_find(root, "train"),
                   *layers = plx_node_find(plx_node_find(root, "model"), "layers");
    assert_int_equal(train->line, 3);
    assert_string_equal(train->file, "r.yaml");
    assert_int_equal(plx_node_find(train, "lr")->line, 4);
    assert_string_equal(plx_node_find(train, "text")->text, "caf\xC3\xA9 \" x");
    assert_int_equal(plx_node_find(train, "empty")->kind, PLX_NODE_NULL);
    assert_int_equal(plx_node_find(train, "empty")->line, 7);
    assert_null(plx_node_find(train, "nothing"));
    assert_null(plx_node_find(layers, "mixer"));
    assert_null(plx_node_find(NULL, "mixer"));
    assert_int_equal(layers->kind, PLX_NODE_LIST);
    assert_int_equal(layers->count, 2);
    assert_string_equal(plx_node_find(layers->child, "mixer")->text, "attention");
    assert_true(layers->child->next->number == 5);
    plx_node_free(context, root);
    plx_node_free(context, NULL);
}

static void test_yaml_refusals(void **state)
{
    (void)state;
    const struct { const char *text, *expected; } cases[] = {
        {"a: 1\nb: 2\na: 3\n", "r.yaml:3: key 'a' is given twice, first in line 1"},
        {"a: 1\nb: [1, 2\nc: 3\n", "r.yaml:3:"},
        {"a: 1\n b: 2\n", "r.yaml:2:"},
        {"a: &x 1\nb: *x\n", "r.yaml:1: anchors"},
        {"a: *x\n", "r.yaml:1: anchors"},
        {"a: !!python/object 1\n", "r.yaml:1: tags"},
        {"a: 1\n--- \nb: 2\n", "r.yaml:2: a second document"},
        {"? [1, 2]\n: 3\n", "r.yaml:1: a key must be a word"},
        {"a:\n  - .nan\n", "r.yaml:2: '.nan' is not a finite number"},
        {"a: -.inf", "is not a finite number"},
        {"a: 1\nb: 1e999\n", "r.yaml:2: '1e999' is not a finite number"},
        {"a: \"x\\0y\"\n", "r.yaml:1: a text holds a zero byte"},
        {"\"a\\0b\": 1\n", "r.yaml:1: a text holds a zero byte"},
        {"a: \"\\ud800\"\n", "r.yaml:1:"},
        {"a: caf\xE9\n", "UTF-8"},
        {"a: \xFF\n", "UTF-8"},
        {"a: \x01\n", "control characters"},
        {"\ta: 1\n", "r.yaml:1:"},
        {"a: 'x\n", "r.yaml:2:"},
        {"%YAML 7.0\n---\na: 1\n", "r.yaml:1:"},
        {"}", "r.yaml:1:"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refused(false, cases[i].text, strlen(cases[i].text), PLX_ERROR_FORMAT, cases[i].expected);
    refused(false, "a: 1\0b", 6, PLX_ERROR_FORMAT, "r.yaml:");
}

/* Texts that are large, deep or many: refused soon, in little memory. */
static void test_yaml_bombs(void **state)
{
    (void)state;
    size_t length = (size_t)17 << 20;
    char *text = malloc(length);
    memset(text, '[', length);
    refused(false, text, 1000000, PLX_ERROR_FORMAT, "r.yaml:1: nested deeper than 64 levels");
    refused(false, text, length, PLX_ERROR_FORMAT, "longer than");
    for (size_t i = 0; i + 1 < 20000; i += 2) memcpy(text + i, "- ", 2);
    refused(false, text, 20000, PLX_ERROR_FORMAT, "nested deeper than 64 levels");
    text[0] = '[';
    for (size_t i = 1; i + 1 < length; i += 2) memcpy(text + i, "1,", 2);
    refused(false, text, 3000001, PLX_ERROR_FORMAT, "more than 1000000 values");
    size_t used = 0;
    for (int i = 0; i < 5000; i++) used += (size_t)sprintf(text + used, "k%d: 1\n", i);
    refused(false, text, used, PLX_ERROR_FORMAT, "r.yaml:4097: too many keys");
    for (int depth = 64; depth <= 65; depth++) { /* the limit itself */
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth); /* each list is a value */
        text[2 * depth] = '\0';
        if (depth == 65) refused(false, text, 130, PLX_ERROR_FORMAT, "nested deeper");
        else plx_node_free(context, yaml(text));
    }
    free(text);
}

static void test_yaml_write(void **state)
{
    (void)state;
    const char *text =
        "a: {b: 1.50, c: [1, 'two', ~], d: {}}\nlist: [{x: 'true'}, {x: yes, y: '12'}]\n"
        "long: 'many words that go on and on and on and on and on and on and on and on and on and on and on'\n"
        "odd: \"line\\nbreak: # caf\\u00e9 '\"\nempty: ''\nnothing: []\n'5': '~'\n";
    plx_node *root = yaml(text);
    char *written = NULL, *again = NULL;
    assert_int_equal(plx_node_write_yaml(context, root, &written), PLX_OK);
    plx_node *second = yaml(written);
    json_t *first_json = plx_node_to_json(root), *second_json = plx_node_to_json(second);
    assert_true(json_equal(first_json, second_json));
    assert_non_null(strstr(written, "b: 1.50\n"));
    assert_int_equal(plx_node_write_yaml(context, second, &again), PLX_OK);
    assert_string_equal(written, again);
    json_decref(first_json);
    json_decref(second_json);
    plx_free(context, written);
    plx_free(context, again);
    plx_node_free(context, root);
    plx_node_free(context, second);
}

/* ---- JSON ---- */

static void test_json(void **state)
{
    (void)state;
    plx_node *root = json("{\"a\": 1, \"b\": -2.5e-3, \"c\": [true, null, \"x\\u20ac\"], \"d\": {\"e\": 3.0},"
                          " \"f\": 1e-5, \"g\": 9007199254740993, \"h\": 0.1}");
    assert_int_equal(plx_node_find(root, "a")->kind, PLX_NODE_NUMBER);
    assert_string_equal(plx_node_find(root, "a")->text, "1");
    assert_int_equal(plx_node_find(root, "a")->line, 0);
    assert_true(plx_node_find(root, "b")->number == -2.5e-3);
    const plx_node *list = plx_node_find(root, "c");
    assert_int_equal(list->count, 3);
    assert_true(list->child->kind == PLX_NODE_BOOL && list->child->truth);
    assert_int_equal(list->child->next->kind, PLX_NODE_NULL);
    assert_string_equal(list->child->next->next->text, "x\xE2\x82\xAC");
    assert_string_equal(plx_node_find(plx_node_find(root, "d"), "e")->text, "3.0");
    assert_string_equal(plx_node_find(root, "h")->text, "0.1");
    json_t *copy = plx_node_to_json(root);
    char *text = json_dumps(copy, JSON_COMPACT | JSON_REAL_PRECISION(15));
    assert_string_equal(text, "{\"a\":1,\"b\":-0.0025,\"c\":[true,null,\"x\xE2\x82\xAC\"],\"d\":{\"e\":3.0},\"f\":1e-5,"
                              "\"g\":9007199254740993,\"h\":0.1}");
    free(text);
    json_decref(copy);
    plx_node_free(context, root);
}

static void test_json_refusals(void **state)
{
    (void)state;
    const struct { const char *text, *expected; } cases[] = {
        {"", "c.json:"},
        {"{\"a\": 1,\n\"b\": }", "c.json:2:"},
        {"{\"a\": 1, \"a\": 2}", "duplicate"},
        {"{\"a\": nan}", "c.json:1:"},
        {"{\"a\": NaN}", "c.json:1:"},
        {"{\"a\": 1e999}", "real number overflow"},
        {"{\"a\": 99999999999999999999}", "too big integer"},
        {"{\"a\": \"\\u0000\"}", "c.json:1:"},
        {"{\"a\": \"\xE9\"}", "unable to decode byte"},
        {"{\"a\": 1} x", "end of file expected"},
        {"{'a': 1}", "c.json:1:"},
        {"[1,]", "c.json:1:"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refused(true, cases[i].text, strlen(cases[i].text), PLX_ERROR_FORMAT, cases[i].expected);
    char *text = malloc(1000000);
    memset(text, '[', 1000000);
    refused(true, text, 1000000, PLX_ERROR_FORMAT, "maximum parsing depth");
    memset(text + 100, ']', 100);
    refused(true, text, 200, PLX_ERROR_FORMAT, "nested deeper than 64 levels");
    refused(true, text, (size_t)17 << 20, PLX_ERROR_FORMAT, "longer than");
    free(text);
}

static void test_files(void **state)
{
    (void)state;
    plx_node *root = NULL;
    assert_int_equal(plx_node_read_yaml(context, "/nonexistent/r.yaml", &root), PLX_ERROR_FILE);
    assert_non_null(strstr(message(), "/nonexistent/r.yaml"));
    assert_int_equal(plx_node_read_json(context, "/", &root), PLX_ERROR_FILE);
    assert_null(root);
    char path[] = "/tmp/plexus-test-node-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0 && write(file, "{\"a\": 5}", 8) == 8);
    close(file);
    assert_int_equal(plx_node_read_json(context, path, &root), PLX_OK);
    assert_true(plx_node_find(root, "a")->number == 5 && strcmp(root->file, path) == 0);
    plx_node_free(context, root);
    assert_int_equal(plx_node_read_yaml(context, path, &root), PLX_OK); /* JSON of this kind is YAML too */
    plx_node_free(context, root);
    unlink(path);
}

/* ---- setting ---- */

static void test_set(void **state)
{
    (void)state;
    plx_node *root =
        yaml("train: {steps: 5, lr: 1e-3}\ndata:\nmodel: {layers: [{mixer: attention}, {mixer: nexus}]}\n");
    const char *const assignments[] = {"train.steps=100", "train.note=a=b", "data.train=[x.txt, y.txt]",
                                       "out=runs/a",      "a.b.c={d: ~}",   "model.layers.1.window=8",
                                       "train.lr=",       "train.lr=2e-3"};
    for (size_t i = 0; i < sizeof assignments / sizeof assignments[0]; i++)
        if (plx_node_set(context, root, assignments[i]) != PLX_OK) fail_msg("%s", message());
    json_t *copy = plx_node_to_json(root);
    char *text = json_dumps(copy, JSON_COMPACT | JSON_REAL_PRECISION(15));
    assert_string_equal(
        text, "{\"train\":{\"steps\":100,\"lr\":0.002,\"note\":\"a=b\"},\"data\":{\"train\":[\"x.txt\",\"y.txt\"]},"
              "\"model\":{\"layers\":[{\"mixer\":\"attention\"},{\"mixer\":\"nexus\",\"window\":8}]},"
              "\"out\":\"runs/a\",\"a\":{\"b\":{\"c\":{\"d\":null}}}}");
    free(text);
    json_decref(copy);
    const char *const bad[] = {"",
                               "=5",
                               "train.steps",
                               "train..steps=5",
                               ".a=5",
                               "a.=5",
                               "train.steps.x=5",
                               "out.x=5",
                               "train.steps=[1",
                               "model.layers.2.window=8",
                               "model.layers.x=8",
                               "x\xFF=5",
                               "train.lr=.nan",
                               "train.lr=*x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        plx_status status = plx_node_set(context, root, bad[i]);
        if (status == PLX_OK) fail_msg("'%s' was accepted", bad[i]);
    }
    char deep[201];
    for (int i = 0; i < 200; i += 2) memcpy(deep + i, "a.", 2);
    deep[198] = 'b';
    deep[199] = '=';
    deep[200] = '\0';
    assert_int_equal(plx_node_set(context, root, deep), PLX_ERROR_VALUE);
    assert_true(plx_node_find(plx_node_find(root, "train"), "steps")->number == 100);
    plx_keys keys; /* a message about a value set so says where it comes from */
    assert_int_equal(plx_node_set(context, root, "train.stepz=5"), PLX_OK);
    size_t steps = 0;
    plx_keys_open(&keys, context, plx_node_find(root, "train"), "train");
    plx_keys_size(&keys, "steps", &steps, 1, SIZE_MAX);
    plx_keys_node(&keys, "lr");
    plx_keys_node(&keys, "note");
    assert_int_equal(plx_keys_close(&keys), PLX_ERROR_VALUE);
    assert_string_equal(message(), "--set: unknown key 'stepz' in train; did you mean 'steps'?");
    plx_node_free(context, root);
}

/* ---- keys ---- */

static void test_keys_values(void **state)
{
    (void)state;
    plx_node *root =
        yaml("b: true\nn: 18446744073709551615\nm: 1e3\nx: -0.5\ns: text\nc: beta\nl: [3, 1, 2.0]\nz: null\n");
    plx_keys keys;
    bool truth = false;
    size_t n = 0, m = 0, absent = 7, list[4] = {0}, count = 0;
    double x = 0.0;
    const char *text = "default";
    int choice = -1;
    assert_int_equal(plx_keys_open(&keys, context, root, "train"), PLX_OK);
    assert_int_equal(plx_keys_bool(&keys, "b", &truth), PLX_OK);
    assert_int_equal(plx_keys_size(&keys, "n", &n, 0, SIZE_MAX), PLX_OK);
    assert_int_equal(plx_keys_size(&keys, "m", &m, 1000, 1000), PLX_OK);
    assert_int_equal(plx_keys_size(&keys, "absent", &absent, 1, 2), PLX_OK);
    assert_int_equal(plx_keys_real(&keys, "x", &x, -1.0, INFINITY), PLX_OK);
    assert_int_equal(plx_keys_string(&keys, "s", &text), PLX_OK);
    assert_int_equal(plx_keys_choice(&keys, "c", "alpha|beta|gamma", &choice), PLX_OK);
    assert_int_equal(plx_keys_sizes(&keys, "l", list, &count, 4, 1), PLX_OK);
    assert_true(truth && n == SIZE_MAX && m == 1000 && absent == 7 && x == -0.5 && choice == 1);
    assert_string_equal(text, "text");
    assert_true(count == 3 && list[0] == 3 && list[1] == 1 && list[2] == 2);
    assert_false(plx_keys_has(&keys, "z"));
    assert_int_equal(plx_keys_node(&keys, "z")->kind, PLX_NODE_NULL);
    assert_true(plx_keys_has(&keys, "s"));
    assert_int_equal(plx_keys_close(&keys), PLX_OK);
    plx_node_free(context, root);

    assert_int_equal(plx_keys_open(&keys, context, NULL, "train"), PLX_OK); /* nothing given: all defaults */
    assert_int_equal(plx_keys_size(&keys, "n", &n, 0, 1), PLX_OK);
    assert_int_equal(plx_keys_close(&keys), PLX_OK);
    plx_keys_fail(&keys, "n", "is %s", "odd");
    assert_string_equal(message(), "train.n: is odd");
}

static void test_keys_refusals(void **state)
{
    (void)state;
    plx_node *root =
        yaml("t:\n  n: -1\n  f: 1.5\n  s: 5\n  b: yes\n  c: delta\n  l: [1, x]\n  e: []\n  r: .5\n  z:\n  m: {}\n"
             "  big: 99999999999999999999\n");
    plx_keys keys;
    size_t n = 9, list[2] = {8, 8}, count = 2;
    double x = 9.0;
    bool truth = true;
    const char *text = "default";
    int choice = 9;
    plx_keys_open(&keys, context, plx_node_find(root, "t"), "t");
#define REFUSES(call, expected)                                                                              \
    do {                                                                                                     \
        assert_int_equal(call, PLX_ERROR_VALUE);                                                             \
        assert_string_equal(message(), expected);                                                            \
    } while (0)
    REFUSES(plx_keys_size(&keys, "n", &n, 1, SIZE_MAX), "r.yaml:2: t.n: must be a whole number of 1 or more, not -1");
    REFUSES(plx_keys_size(&keys, "f", &n, 1, 64), "r.yaml:3: t.f: must be a whole number from 1 to 64, not 1.5");
    REFUSES(plx_keys_size(&keys, "s", &n, 6, 8), "r.yaml:4: t.s: must be a whole number from 6 to 8, not 5");
    REFUSES(plx_keys_size(&keys, "s", &n, 3, 4), "r.yaml:4: t.s: must be a whole number from 3 to 4, not 5");
    REFUSES(plx_keys_size(&keys, "big", &n, 0, SIZE_MAX),
            "r.yaml:12: t.big: must be a whole number of 0 or more, not 99999999999999999999");
    REFUSES(plx_keys_size(&keys, "z", &n, 0, SIZE_MAX),
            "r.yaml:10: t.z: must be a whole number of 0 or more; leave the key out for its default");
    REFUSES(plx_keys_string(&keys, "s", &text), "r.yaml:4: t.s: must be a text, not 5: put it in quotes");
    REFUSES(plx_keys_bool(&keys, "b", &truth), "r.yaml:5: t.b: must be true or false, not 'yes'");
    REFUSES(plx_keys_choice(&keys, "c", "alpha|beta", &choice),
            "r.yaml:6: t.c: must be one of alpha, beta, not 'delta'");
    REFUSES(plx_keys_choice(&keys, "s", "alpha|beta", &choice), "r.yaml:4: t.s: must be one of alpha, beta, not 5");
    REFUSES(plx_keys_sizes(&keys, "l", list, &count, 2, 1),
            "r.yaml:7: t.l: must be a list of 1 to 2 whole numbers of 1 or more, not 'x'");
    REFUSES(plx_keys_sizes(&keys, "e", list, &count, 2, 1),
            "r.yaml:8: t.e: must be a list of 1 to 2 whole numbers of 1 or more, not of 0");
    REFUSES(plx_keys_real(&keys, "r", &x, 0.0, 0.25), "r.yaml:9: t.r: must be a number from 0 to 0.25, not .5");
    REFUSES(plx_keys_real(&keys, "r", &x, 0.75, 1.0), "r.yaml:9: t.r: must be a number from 0.75 to 1, not .5");
    REFUSES(plx_keys_real(&keys, "c", &x, -INFINITY, INFINITY), "r.yaml:6: t.c: must be a number, not 'delta'");
    REFUSES(plx_keys_real(&keys, "m", &x, 0.0, INFINITY),
            "r.yaml:11: t.m: must be a number of 0 or more, not a mapping");
    REFUSES(plx_keys_real(&keys, "l", &x, -INFINITY, 3.0), "r.yaml:7: t.l: must be a number of 3 or less, not a list");
    assert_true(n == 9 && x == 9.0 && truth && choice == 9 && count == 2 && list[0] == 8 &&
                strcmp(text, "default") == 0);
    REFUSES(plx_keys_open(&keys, context, plx_node_find(plx_node_find(root, "t"), "l"), "layers"),
            "r.yaml:7: layers must be a mapping of keys to values");
    plx_node_free(context, root);

    root = json("{\"heads\": \"four\"}");
    plx_keys_open(&keys, context, root, "");
    REFUSES(plx_keys_size(&keys, "heads", &n, 1, 8), "c.json: heads: must be a whole number from 1 to 8, not 'four'");
    plx_node_free(context, root);
}

static void test_unknown_keys(void **state)
{
    (void)state;
    const struct { const char *text, *expected; } cases[] = {
        {"steps: 1\nstepz: 2\n", "r.yaml:2: unknown key 'stepz' in train; did you mean 'steps'?"},
        {"setps: 2\n", "r.yaml:1: unknown key 'setps' in train; did you mean 'steps'?"},
        {"warmup: 2\n", "r.yaml:1: unknown key 'warmup' in train; did you mean 'warmup_steps'?"},
        {"batchsize: 2\n", "r.yaml:1: unknown key 'batchsize' in train; did you mean 'batch_size'?"},
        {"qqqqqqqqqqqq: 2\n", "r.yaml:1: unknown key 'qqqqqqqqqqqq' in train; known are steps, "},
        {"<<: 2\n", "r.yaml:1: unknown key '<<' in train; known are steps, "},
        {"'': 2\n", "r.yaml:1: unknown key '' in train"},
    };
    plx_keys keys;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        plx_node *root = yaml(cases[i].text);
        plx_keys_open(&keys, context, root, "train");
        plx_keys_node(&keys, "steps");
        plx_keys_node(&keys, "batch_size");
        plx_keys_node(&keys, "warmup_steps");
        plx_keys_node(&keys, "steps");
        assert_int_equal(plx_keys_close(&keys), PLX_ERROR_VALUE);
        if (strstr(message(), cases[i].expected) == NULL) fail_msg("'%s' is not '%s'", message(), cases[i].expected);
        plx_node_free(context, root);
    }
    plx_node *swapped = yaml("rl: 1\n"); /* two letters that changed places are one mistake */
    plx_keys_open(&keys, context, swapped, "train");
    plx_keys_node(&keys, "rxx");
    plx_keys_node(&keys, "lr");
    assert_int_equal(plx_keys_close(&keys), PLX_ERROR_VALUE);
    assert_string_equal(message(), "r.yaml:1: unknown key 'rl' in train; did you mean 'lr'?");
    plx_node_free(context, swapped);

    char long_key[400]; /* longer than the table of distances */
    memset(long_key, 'k', sizeof long_key);
    memcpy(long_key + sizeof long_key - 4, ": 1", 4);
    plx_node *root = yaml(long_key);
    plx_keys_open(&keys, context, root, NULL);
    assert_int_equal(plx_keys_close(&keys), PLX_ERROR_VALUE); /* nothing was asked for */
    plx_keys_node(&keys, long_key);
    assert_int_equal(plx_keys_close(&keys), PLX_ERROR_VALUE);
    plx_node_free(context, root);

    static char names[97][16]; /* more than a section can know: said, not forgotten */
    plx_keys_open(&keys, context, NULL, "train");
    for (int i = 0; i < 97; i++) {
        snprintf(names[i], sizeof names[i], "k%d", i);
        plx_keys_node(&keys, names[i]);
        assert_int_equal(plx_keys_close(&keys), i < 96 ? PLX_OK : PLX_ERROR_INTERNAL);
    }
}

/* ---- memory ---- */

typedef struct counter { long calls, fail_at, live; } counter;

static void *counting_resize(void *user, void *pointer, size_t bytes)
{
    counter *count = user;
    if (++count->calls == count->fail_at) return NULL;
    count->live += pointer == NULL;
    return realloc(pointer, bytes);
}

static void counting_release(void *user, void *pointer)
{
    ((counter *)user)->live -= pointer != NULL;
    free(pointer);
}

/* Reading, setting and writing with each allocation failing in turn: an error, nothing leaked. */
static void test_without_memory(void **state)
{
    (void)state;
    const char *yaml_text = "a: {b: [1, x, {c: 'y'}]}\nd: 5\n", *json_text = "{\"a\": [1, 2.5, {\"b\": \"x\"}]}";
    plx_status status = PLX_ERROR_MEMORY;
    for (long fail_at = 2; status != PLX_OK; fail_at++) {
        assert_true(fail_at < 100);
        counter count = {.fail_at = fail_at};
        plx_context_options options = {.threads = 1, .allocator = {counting_resize, counting_release, &count}};
        plx_context *scarce = NULL;
        plx_node *first = NULL, *second = NULL;
        char *text = NULL;
        assert_int_equal(plx_context_create(&options, &scarce), PLX_OK);
        PLX_TRY_GOTO(status, done, plx_node_parse_yaml(scarce, "r.yaml", yaml_text, strlen(yaml_text), &first));
        PLX_TRY_GOTO(status, done, plx_node_parse_json(scarce, "c.json", json_text, strlen(json_text), &second));
        PLX_TRY_GOTO(status, done, plx_node_set(scarce, first, "e.f.g=[1, 2]"));
        PLX_TRY_GOTO(status, done, plx_node_set(scarce, first, "a.b=3"));
        PLX_TRY_GOTO(status, done, plx_node_write_yaml(scarce, first, &text));
    done:
        assert_true(status == PLX_OK || status == PLX_ERROR_MEMORY);
        plx_free(scarce, text);
        plx_node_free(scarce, first);
        plx_node_free(scarce, second);
        plx_context_free(scarce);
        assert_int_equal(count.live, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_yaml_scalars), cmocka_unit_test(test_yaml_tree),     cmocka_unit_test(test_yaml_refusals),
        cmocka_unit_test(test_yaml_bombs),   cmocka_unit_test(test_yaml_write),    cmocka_unit_test(test_json),
        cmocka_unit_test(test_json_refusals), cmocka_unit_test(test_files),        cmocka_unit_test(test_set),
        cmocka_unit_test(test_keys_values),  cmocka_unit_test(test_keys_refusals), cmocka_unit_test(test_unknown_keys),
        cmocka_unit_test(test_without_memory),
    };
    return cmocka_run_group_tests_name("node", tests, set_up, tear_down);
}
