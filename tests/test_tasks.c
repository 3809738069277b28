/* test_tasks.c - the synthetic tasks: labels against brute force, balance, and rows that are pure functions of their
 * number. The rows come through plx_data, as in training. */
#include "support/files.h"

#include "data/data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 500

static double skew = 1.25; /* how much more frequent than chance an answer may be; a random table is uneven by itself */

static plx_data *open_task(const char *yaml, uint64_t seed, plx_data_description *about)
{
    plx_data *data;
    plx_node *node;
    expect_ok(context, plx_node_parse_yaml(context, "task.yaml", yaml, strlen(yaml), &node));
    expect_ok(context, plx_data_describe(context, node, about));
    expect_ok(context, plx_data_open(context, node, seed, "/nowhere", &data)); /* a task touches no file */
    plx_node_free(context, node);
    return data;
}

/* Fails unless a share of `count` draws is within 5 deviations of p. */
static void expect_share(size_t hits, size_t count, double p)
{
    double deviation = sqrt(p * (1 - p) / (double)count), share = (double)hits / (double)count;
    if (fabs(share - p) > 5 * deviation + 1e-12) fail_msg("a share of %g where %g was expected", share, p);
}

/* Checks one row: inputs, targets and mask of T; fails by cmocka. */
typedef void (*row_check)(const int32_t *x, const int32_t *y, const float *mask, size_t T);

/* What holds for every task, and `check` for every row of training and held-out ones. */
static plx_data_description check_task(const char *yaml, row_check check)
{
    plx_data_description about;
    plx_data *data = open_task(yaml, 7, &about);
    plx_batch batch;
    size_t bytes = 1, asked = 0, T = about.sequence_length;
    size_t *answers = calloc(about.vocab_size, sizeof *answers), most = 0;
    assert_int_equal(plx_data_train_rows(data), 0);
    assert_int_equal(plx_data_valid_rows(data), 256);
    expect_ok(context, plx_data_valid(data, 0, 256, &batch, &bytes));
    assert_true(batch.rows == 256 && bytes == 0);
    for (size_t r = 0; r < 256; r++) check(batch.inputs + r * T, batch.targets + r * T, batch.mask + r * T, T);
    int32_t *held = memcpy(malloc(T * sizeof(int32_t)), batch.inputs, T * sizeof(int32_t));
    expect_ok(context, plx_data_valid(data, 255, 2, &batch, &bytes));
    assert_true(batch.rows == 2 && batch.mask[2 * T - 1] == 0.0f && batch.start[2 * T - 1] == (int32_t)T - 1);
    expect_ok(context, plx_data_valid(data, 256, 2, &batch, &bytes));
    assert_int_equal(batch.rows, 0);

    expect_ok(context, plx_data_train(data, 0, ROWS, &batch));
    assert_memory_not_equal(batch.inputs, held, T * sizeof *held);
    for (size_t r = 0; r < ROWS; r++) check(batch.inputs + r * T, batch.targets + r * T, batch.mask + r * T, T);
    for (size_t i = 0; i < ROWS * T; i++) {
        assert_in_range(batch.inputs[i], 0, about.vocab_size - 1);
        assert_in_range(batch.targets[i], 0, about.vocab_size - 1);
        assert_true(batch.start[i] == 0 && (batch.mask[i] == 1.0f || (batch.mask[i] == 0.0f && batch.targets[i] == 0)));
        asked += batch.mask[i] == 1.0f;
        answers[batch.targets[i]] += batch.mask[i] == 1.0f;
    }
    /* No answer is much more frequent than chance. */
    for (size_t i = 0; i < about.vocab_size; i++) most = answers[i] > most ? answers[i] : most;
    assert_true(asked > 0 && (double)most / (double)asked < about.chance * skew + 0.01);

    int32_t *first = memcpy(malloc(ROWS * T * sizeof *first), batch.inputs, ROWS * T * sizeof *first);
    assert_memory_not_equal(first, first + T, T * sizeof *first);
    plx_data_free(data);
    data = open_task(yaml, 7, &about); /* the same seed, the same rows */
    expect_ok(context, plx_data_train(data, ROWS - 3, 3, &batch));
    assert_memory_equal(batch.inputs, first + (ROWS - 3) * T, 3 * T * sizeof *first);
    plx_data_free(data);
    data = open_task(yaml, 8, &about);
    expect_ok(context, plx_data_train(data, 0, ROWS, &batch));
    assert_memory_not_equal(batch.inputs, first, ROWS * T * sizeof *first);
    plx_data_free(data);
    free(first);
    free(held);
    free(answers);
    return about;
}

/* ---- mqar, pairsum: keys 0..K-1, values K.. ---- */

static size_t K, V, pairs, queries;

static size_t value_of(const int32_t *x, int32_t key)
{
    for (size_t i = 0; i < pairs; i++)
        if (x[2 * i] == key) return (size_t)x[2 * i + 1];
    fail_msg("key %d is not in the row", key);
    return 0;
}

static void check_pairs(const int32_t *x, size_t T)
{
    assert_int_equal(T, 2 * (pairs + queries));
    for (size_t i = 0; i < pairs; i++) {
        assert_in_range(x[2 * i], 0, K - 1);
        assert_in_range(x[2 * i + 1], K, K + V - 1);
        for (size_t j = 0; j < i; j++) assert_int_not_equal(x[2 * i], x[2 * j]);
    }
}

static void check_mqar(const int32_t *x, const int32_t *y, const float *mask, size_t T)
{
    check_pairs(x, T);
    for (size_t t = 0; t < T; t++) {
        bool query = t >= 2 * pairs && t % 2 == 0;
        assert_true(mask[t] == (query ? 1.0f : 0.0f));
        if (query) assert_true((size_t)y[t] == value_of(x, x[t]) && x[t + 1] == y[t]);
    }
}

static void check_pairsum(const int32_t *x, const int32_t *y, const float *mask, size_t T)
{
    check_pairs(x, T);
    for (size_t t = 0; t < T; t++) {
        bool query = t >= 2 * pairs && t % 2 == 1;
        assert_true(mask[t] == (query ? 1.0f : 0.0f));
        if (!query) continue;
        assert_int_not_equal(x[t], x[t - 1]);
        assert_int_equal(y[t], K + (value_of(x, x[t]) + value_of(x, x[t - 1]) - 2 * K) % V);
    }
}

static void test_mqar(void **state)
{
    (void)state;
    K = V = 16;
    pairs = queries = 8;
    plx_data_description about = check_task("task: mqar", check_mqar);
    assert_true(about.vocab_size == 32 && about.sequence_length == 32 && about.chance == 1.0 / 16);
    K = 5, V = 3, pairs = 5, queries = 9;
    check_task("{task: mqar, keys: 5, values: 3, pairs: 5, queries: 9}", check_mqar);
}

static void test_pairsum(void **state)
{
    (void)state;
    K = V = 16;
    pairs = queries = 8;
    plx_data_description about = check_task("task: pairsum", check_pairsum);
    assert_true(about.vocab_size == 32 && about.sequence_length == 32 && about.chance == 1.0 / 16);
    K = 9, V = 7, pairs = 2, queries = 3;
    check_task("{task: pairsum, keys: 9, values: 7, pairs: 2, queries: 3}", check_pairsum);
}

/* ---- hop ---- */

static size_t items, hops;

static void check_hop(const int32_t *x, const int32_t *y, const float *mask, size_t T)
{
    size_t f[64], n = items, length = 0;
    bool given[64] = {false};
    assert_true(T == n + queries);
    for (size_t t = 0; t < n; t++) {
        assert_in_range(x[t], 0, n * n - 1);
        assert_false(given[(size_t)x[t] / n]);
        given[(size_t)x[t] / n] = true;
        f[(size_t)x[t] / n] = (size_t)x[t] % n;
        assert_true(mask[t] == 0.0f);
    }
    for (size_t a = f[0], steps = 1; steps <= n && length == 0; a = f[a], steps++)
        if (a == 0) length = steps;
    assert_int_equal(length, n); /* one cycle through all items */
    for (size_t t = n; t < T; t++) {
        assert_in_range(x[t], n * n, n * n + n - 1);
        size_t a = (size_t)x[t] - n * n;
        for (size_t i = 0; i < hops; i++) a = f[a];
        assert_true(mask[t] == 1.0f && (size_t)y[t] == n * n + a);
    }
}

static void test_hop(void **state)
{
    (void)state;
    items = queries = 8;
    hops = 2;
    plx_data_description about = check_task("task: hop", check_hop);
    assert_true(about.vocab_size == 72 && about.sequence_length == 16 && about.chance == 0.125);
    items = 5, hops = 13, queries = 2;
    check_task("{task: hop, items: 5, hops: 13, queries: 2}", check_hop);
    items = 8, hops = 1, queries = 8;
    check_task("{task: hop, hops: 1}", check_hop);
}

/* ---- xor3, match3 ---- */

static size_t window, modulus; /* modulus 0: xor */
static size_t labels[2];

static void check_triples(const int32_t *x, const int32_t *y, const float *mask, size_t T)
{
    for (size_t t = 0; t < T; t++) {
        int found = 0;
        assert_true(mask[t] == (t >= 3 ? 1.0f : 0.0f));
        for (size_t j = 0; j < t; j++)
            for (size_t k = j + 1; k < t; k++) {
                if (t - j >= window) continue; /* t is the last of `window` tokens */
                found |= modulus == 0 ? (x[j] ^ x[k]) == x[t] : (size_t)(x[j] + x[k] + x[t]) % modulus == 0;
            }
        if (t < 3) continue;
        assert_int_equal(y[t], found);
        labels[found]++;
    }
}

static void check_balanced(const char *yaml)
{
    labels[0] = labels[1] = 0;
    plx_data_description about = check_task(yaml, check_triples);
    assert_true(about.chance == 0.5);
    expect_share(labels[1], labels[0] + labels[1], 0.5);
}

static void test_xor3(void **state)
{
    (void)state;
    plx_data_description about;
    modulus = 0;
    window = 6;
    check_balanced("task: xor3");
    plx_data_free(open_task("task: xor3", 0, &about));
    assert_true(about.vocab_size == 16 && about.sequence_length == 32);
    check_balanced("{task: xor3, bits: 5, sequence_length: 9}");
    window = 3;
    check_balanced("{task: xor3, bits: 1, window: 3}");
    /* more pairs than symbols: one class may be impossible, the labels stay right */
    window = 20;
    plx_data *data = open_task("{task: xor3, bits: 1, window: 20}", 3, &about);
    plx_batch batch;
    expect_ok(context, plx_data_train(data, 0, 50, &batch));
    for (size_t r = 0; r < 50; r++)
        check_triples(batch.inputs + r * 32, batch.targets + r * 32, batch.mask + r * 32, 32);
    plx_data_free(data);
}

static void test_match3(void **state)
{
    (void)state;
    modulus = 31;
    window = 8;
    check_balanced("task: match3");
    modulus = 13;
    window = 5;
    check_balanced("{task: match3, p: 13, window: 5, sequence_length: 50}");
}

/* ---- pairtable ---- */

static int32_t table[16][16]; /* learned from the rows: -1 unknown */

static void check_pairtable(const int32_t *x, const int32_t *y, const float *mask, size_t T)
{
    for (size_t t = 0; t < T; t++) {
        assert_true(mask[t] == (t >= 1 ? 1.0f : 0.0f));
        if (t == 0) continue;
        if (table[x[t]][x[t - 1]] < 0) table[x[t]][x[t - 1]] = y[t];
        assert_int_equal(table[x[t]][x[t - 1]], y[t]); /* one table in all rows, training and held out */
    }
}

static void test_pairtable(void **state)
{
    (void)state;
    int32_t first[16][16];
    size_t asymmetric = 0;
    memset(table, -1, sizeof table);
    skew = 2;
    plx_data_description about = check_task("task: pairtable", check_pairtable);
    assert_true(about.vocab_size == 16 && about.sequence_length == 32 && about.chance == 1.0 / 16);
    memcpy(first, table, sizeof table);
    for (int a = 0; a < 16; a++)
        for (int b = 0; b < 16; b++) {
            assert_in_range(table[a][b], 0, 15);
            asymmetric += table[a][b] != table[b][a];
        }
    assert_true(asymmetric > 150);
    memset(table, -1, sizeof table);
    check_task("{task: pairtable, table_seed: 1, sequence_length: 17}", check_pairtable);
    assert_memory_not_equal(first, table, sizeof table);
}

/* Every task of the registry keeps its promises with its defaults. */
static void check_nothing(const int32_t *x, const int32_t *y, const float *mask, size_t T)
{
    (void)x, (void)y, (void)mask, (void)T;
}

static void test_registry(void **state)
{
    (void)state;
    size_t count = 0;
    skew = 2;
    for (; plx_tasks[count] != NULL; count++) {
        char yaml[64];
        assert_true(plx_tasks[count]->summary[0] != '\0');
        snprintf(yaml, sizeof yaml, "task: %s", plx_tasks[count]->name);
        check_task(yaml, check_nothing);
    }
    assert_true(count >= 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mqar),     cmocka_unit_test(test_pairsum), cmocka_unit_test(test_hop),
        cmocka_unit_test(test_xor3),     cmocka_unit_test(test_match3),  cmocka_unit_test(test_pairtable),
        cmocka_unit_test(test_registry),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
