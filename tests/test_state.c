/* test_state.c - decoding state in f16 and q8: how numbers are packed, attention over packed histories, and sessions
 * that keep them. */
#include "core/random.h"
#include "infer/state.h"
#include "kernels/history.h"
#include "mixers/attention/attention_ops.h"
#include "support/models.h"
#include "support/problem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const plx_state_form packed_forms[] = {PLX_STATE_F16, PLX_STATE_Q8};
static const char *const form_names[] = {"whole", "f16", "q8"};

/* ---- packing ---- */

static void test_halves(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x10000; half++) {
        float value = plx_float_of_f16((uint16_t)half);
        if (isnan(value))
            assert_true(isnan(plx_float_of_f16(plx_f16_of_float(value))));
        else
            assert_int_equal(plx_f16_of_float(value), half);
    }
    plx_random random;
    plx_random_init(&random, 1, 1);
    for (int i = 0; i < 200000; i++) { /* all exponents, and ties: the same as the slow conversion */
        uint32_t bits = (uint32_t)plx_random_below(&random, (uint64_t)1 << 32);
        if (i % 3 == 0) bits = (bits & 0xffffe000u) | 0x1000u;
        float x = plx_float_of_bits(bits);
        uint16_t wanted;
        if (isnan(x) || fabsf(x) >= 65504.0f) continue;
        plx_put(&wanted, PLX_F16, 0, x);
        assert_int_equal(plx_f16_of_float(x), wanted);
    }
    const float large[4] = {1e6f, -65519.0f, -INFINITY, NAN};
    float back[4];
    uint16_t token[4];
    plx_pack_token(PLX_STATE_F16, large, 4, token);
    plx_unpack_token(PLX_STATE_F16, token, 4, 0, 4, back);
    assert_true(back[0] == 65504.0f && back[1] == -65504.0f && back[2] == -INFINITY && isnan(back[3]));
}

static void test_bytes(void **state)
{
    (void)state;
    enum { MOST = 100 };
    float x[MOST], back[MOST];
    char token[PLX_Q8_BLOCK * 8 + 64];
    for (size_t width = 1; width <= MOST; width++) {
        for (size_t i = 0; i < width; i++) x[i] = (float)uniform(-3, 3) * (i % 7 == 0 ? 10.0f : 1.0f);
        if (width > 70) memset(x + 32, 0, 32 * sizeof *x);
        plx_pack_token(PLX_STATE_Q8, x, width, token);
        plx_unpack_token(PLX_STATE_Q8, token, width, 0, width, back);
        for (size_t i = 0; i < width; i++) {
            float top = 0, alone;
            for (size_t j = i / 32 * 32; j < width && j < i / 32 * 32 + 32; j++) top = fmaxf(top, fabsf(x[j]));
            assert_true(fabsf(x[i] - back[i]) <= top / 254 * 1.00001f);
            plx_unpack_token(PLX_STATE_Q8, token, width, i, 1, &alone);
            assert_true(alone == back[i]);
        }
    }
    float odd[3][4] = {{1, NAN, 2, 3}, {1, -INFINITY, 0, 0}, {1e-38f, -1e-38f, 0, 0}};
    for (int i = 0; i < 3; i++) {
        plx_pack_token(PLX_STATE_Q8, odd[i], 4, token);
        plx_unpack_token(PLX_STATE_Q8, token, 4, 0, 4, back);
        if (i < 2)
            assert_true(isnan(back[0]));
        else
            assert_true(back[0] == 0 && back[1] == 0);
    }
}

/* ---- attention over packed histories ---- */

enum { ROWS_OF = 2, ROOM = 700, SLOTS_OF = 3 };

typedef struct attention_case {
    size_t length, heads, kv_heads, head_dim, window;
    int32_t past[ROWS_OF];
} attention_case;

typedef struct stage {
    plx_attention_args args;
    float *q, *k, *v, *out; /* k, v: [ROWS_OF][ROOM][width], also in the histories */
    char *keys, *values;
    int32_t start[ROWS_OF * 64];
} stage;

static const int32_t slots[ROWS_OF] = {2, 0}, bases[ROWS_OF] = {3, 0};

static float *numbers(size_t count)
{
    float *made = malloc(count * sizeof *made);
    for (size_t i = 0; i < count; i++) made[i] = (float)uniform(-2, 2);
    return made;
}

/* Appends the tokens of both rows, from token bases[b] on. */
static void append_all(stage *s, plx_history *history, const float *x)
{
    for (size_t b = 0; b < ROWS_OF; b++) {
        size_t count = (size_t)s->args.sequence.past[b] + s->args.sequence.length - (size_t)bases[b];
        plx_history one = *history;
        one.slot = &slots[b];
        one.base = &bases[b];
        plx_append_args append = {.type = PLX_F32,
                                  .history = one,
                                  .sequence = {.rows = 1, .length = count, .past = &bases[b]},
                                  .x = x + (b * ROOM + (size_t)bases[b]) * history->width};
        expect_ok(plain, plx_op_run(contexts[0][0] ? contexts[0][0] : plain, &plx_op_append, &append));
    }
}

static stage make_stage(const attention_case *c, plx_state_form form)
{
    const size_t width = c->kv_heads * c->head_dim, queries = ROWS_OF * c->length * c->heads * c->head_dim;
    stage s = {.q = numbers(queries), .out = numbers(queries)};
    size_t bytes = SLOTS_OF * ROOM * plx_history_token_bytes(form, PLX_F32, width);
    s.k = numbers(ROWS_OF * ROOM * width);
    s.v = numbers(ROWS_OF * ROOM * width);
    s.keys = calloc(1, bytes);
    s.values = calloc(1, bytes);
    plx_history history = {.width = width, .row_stride = ROOM * width, .slot = slots, .base = bases, .form = form};
    s.args = (plx_attention_args){.type = PLX_F32,
                                  .sequence = {.rows = ROWS_OF, .length = c->length, .past = c->past},
                                  .heads = c->heads,
                                  .kv_heads = c->kv_heads,
                                  .head_dim = c->head_dim,
                                  .window = c->window,
                                  .scale = 1 / sqrt((double)c->head_dim),
                                  .q = s.q,
                                  .keys = history,
                                  .values = history,
                                  .out = s.out};
    s.args.keys.data = s.keys;
    s.args.values.data = s.values;
    append_all(&s, &s.args.keys, s.k);
    append_all(&s, &s.args.values, s.v);
    return s;
}
static void free_stage(stage *s)
{
    free(s->q);
    free(s->k);
    free(s->v);
    free(s->out);
    free(s->keys);
    free(s->values);
}

static double *as_doubles(const float *x, size_t count)
{
    double *made = malloc(count * sizeof *made);
    for (size_t i = 0; i < count; i++) made[i] = x[i];
    return made;
}

/* How far rounding keys and values may move an output. With numbers off by e at most, a score is off by
 * u = scale |q|_1 e, all probabilities by factors within exp(+-2u), so the output by (exp(2u) - 1) max|v| + e. */
static double bound_of(const stage *s, plx_state_form form)
{
    const plx_attention_args *a = &s->args;
    const size_t d = a->head_dim, queries = ROWS_OF * a->sequence.length * a->heads;
    double longest = 0, e = 2.0 * (form == PLX_STATE_F16 ? 0x1p-11 : 1.00001 / 254); /* numbers are at most 2 */
    for (size_t i = 0; i < queries; i++) {
        double sum = 0;
        for (size_t c = 0; c < d; c++) sum += fabs(s->q[i * d + c]);
        if (sum > longest) longest = sum;
    }
    return (exp(2 * a->scale * longest * e) - 1) * 2 + e + 1e-5;
}

static void attend_packed(const attention_case *c, plx_state_form form)
{
    stage s = make_stage(c, form);
    const size_t width = c->kv_heads * c->head_dim, count = ROWS_OF * c->length * c->heads * c->head_dim;
    for (size_t i = 0; i < ROWS_OF * c->length; i++)
        s.start[i] = (int32_t)(i % c->length >= 5 && c->length > 1 ? c->past[i / c->length] + 4 : bases[i / c->length]);
    s.args.sequence.start = s.start;
    expect_ok(plain, plx_op_run(plain, &plx_op_attention_forward, &s.args));
    double *wanted = as_doubles(s.out, count);
    float *first = NULL;
    for (int level = 0; level < LEVELS; level++)
        for (int threads = 0; threads < THREADS; threads++) {
            plx_context *context = contexts[level][threads];
            if (context == NULL) continue;
            for (size_t i = 0; i < count; i++) s.out[i] = NAN;
            expect_ok(context, plx_op_run(context, &plx_op_attention_forward, &s.args));
            double *made = as_doubles(s.out, count), error = relative_error(made, wanted, count);
            if (!(error < 2e-6))
                fail_msg("%s, T %zu, d %zu, %s: error %.2g", form_names[form], c->length, c->head_dim,
                         level_names[level], error);
            if (threads == 0) first = malloc(count * sizeof *first);
            if (threads == 0) memcpy(first, s.out, count * sizeof *first);
            assert_memory_equal(first, s.out, count * sizeof *first);
            if (threads == THREADS - 1) free(first);
            free(made);
        }
    /* and beside the numbers that were packed */
    static const int32_t rows[ROWS_OF] = {0, 1};
    s.args.keys = s.args.values = (plx_history){.data = s.k, .width = width, .row_stride = ROOM * width, .slot = rows};
    s.args.values.data = s.v;
    expect_ok(plain, plx_op_run(plain, &plx_op_attention_forward, &s.args));
    double bound = bound_of(&s, form), most = 0;
    for (size_t i = 0; i < count; i++) most = fmax(most, fabs(s.out[i] - wanted[i]));
    assert_true(most > 0 && most < bound);
    free(wanted);
    free_stage(&s);
}

static void test_attention_packed(void **state)
{
    (void)state;
    static const attention_case cases[] = {
        {1, 4, 2, 64, 0, {600, 37}}, {1, 6, 2, 64, 100, {300, 5}}, {3, 2, 2, 6, 0, {70, 10}},
        {2, 3, 1, 33, 9, {50, 64}},  {40, 4, 2, 24, 0, {130, 3}},  {17, 9, 3, 64, 0, {500, 8}},
        {33, 2, 2, 9, 7, {60, 90}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t f = 0; f < 2; f++) attend_packed(&cases[i], packed_forms[f]);
}

/* ---- sessions ---- */

#define VOCAB 61
#define LENGTH 50

static plx_session *open_session(plx_model *model, plx_state_form form)
{
    plx_session *session;
    plx_session_options options = {.slots = 2, .capacity = LENGTH, .chunk = 9, .rollback = 20, .state = form};
    expect_ok(model->context, plx_session_create(model, &options, &session));
    return session;
}

/* Logits [until - from][VOCAB] of the tokens in a slot, by steps of changing size. */
static void feed(plx_session *session, size_t slot, const int32_t *tokens, size_t from, size_t until, float *logits)
{
    for (size_t at = from; at < until;) {
        size_t count = 1 + at % 9 < until - at ? 1 + at % 9 : until - at;
        plx_session_row row = {.slot = slot, .tokens = tokens + at, .count = count};
        expect_ok(session->context, plx_session_step(session, &row, 1, NULL, logits + (at - from) * VOCAB));
        at += count;
    }
}

static bool all_packed(const plx_session *session)
{
    for (size_t i = 0; i < session->part_count; i++)
        if (session->parts[i].form == PLX_STATE_WHOLE) return false;
    return session->part_count > 0;
}

/* What is packed loses a little and says so in its size; forked, saved and restored it stays the same to the bit. */
static void session_of_form(const char *mixer, const char *layer_case, plx_state_form form, const char *device)
{
    enum { MIDDLE = 30, REST = (LENGTH - MIDDLE) * VOCAB };
    static float whole[LENGTH * VOCAB], packed[LENGTH * VOCAB], again[REST];
    plx_context *context = test_context(2, device, NULL);
    char *config = test_config(mixer, layer_case, 2, "\"vocab_size\": 61");
    plx_model *model = test_model(context, config, PLX_F32, 5);
    plx_session *plainly = open_session(model, PLX_STATE_WHOLE), *session = open_session(model, form);
    int32_t tokens[LENGTH];
    for (size_t i = 0; i < LENGTH; i++) tokens[i] = (int32_t)plx_random_permute(3, 1, VOCAB, i);
    feed(plainly, 0, tokens, 0, LENGTH, whole);
    feed(session, 0, tokens, 0, MIDDLE, packed);
    void *saved;
    size_t bytes;
    expect_ok(context, plx_session_save(session, 0, &saved, &bytes));
    if (all_packed(session))
        assert_int_equal(plx_session_restore(plainly, 1, saved, bytes), PLX_ERROR_VALUE);
    else
        assert_int_equal(plx_session_state_bytes(session), plx_session_state_bytes(plainly));
    expect_ok(context, plx_session_fork(session, 0, 1));
    feed(session, 0, tokens, MIDDLE, LENGTH, packed + MIDDLE * VOCAB);
    feed(session, 1, tokens, MIDDLE, LENGTH, again);
    assert_memory_equal(again, packed + MIDDLE * VOCAB, sizeof again);
    expect_ok(context, plx_session_reset(session, 1));
    expect_ok(context, plx_session_restore(session, 1, saved, bytes));
    feed(session, 1, tokens, MIDDLE, LENGTH, again);
    assert_memory_equal(again, packed + MIDDLE * VOCAB, sizeof again);
    expect_ok(context, plx_session_cut(session, 1, MIDDLE));
    feed(session, 1, tokens, MIDDLE, LENGTH, again);
    assert_memory_equal(again, packed + MIDDLE * VOCAB, sizeof again);
    /* One attention is held to its bound above. Here up to six stand in a row (two nexus layers of order 3) whose large
     * weights make softmaxes sharp: this only says that it is still the same model. */
    double *a = as_doubles(packed, LENGTH * VOCAB), *b = as_doubles(whole, LENGTH * VOCAB);
    double error = relative_error(a, b, LENGTH * VOCAB), most = (form == PLX_STATE_F16 ? 0x1p-11 : 1.0 / 254) * 64;
    if (!(error < most) || (all_packed(session) && error == 0))
        fail_msg("%s %s in %s: error %.2g", mixer, layer_case, form_names[form], error);
    free(a);
    free(b);
    plx_session_state_free(session, saved);
    plx_session_free(plainly);
    plx_session_free(session);
    plx_model_free(model);
    plx_context_free(context);
    free(config);
}
static void session_of_case(const char *mixer, const char *layer_case)
{
    session_of_form(mixer, layer_case, PLX_STATE_F16, NULL);
    session_of_form(mixer, layer_case, PLX_STATE_Q8, "fenced");
}
static void test_sessions(void **state)
{
    (void)state;
    each_case(session_of_case);
}

static void test_bytes_of_sessions(void **state)
{
    (void)state;
    plx_context *context = test_context(1, NULL, NULL);
    plx_model *model;
    expect_ok(context,
              plx_model_create(
                  context,
                  "{\"model_type\": \"plexus\", \"vocab_size\": 61, \"hidden_size\": 128, \"intermediate_size\": 8,"
                  "\"num_attention_heads\": 2, \"layers\": [{\"mixer\": \"attention\"}]}",
                  NULL, &model));
    size_t whole = 0;
    for (int form = PLX_STATE_WHOLE; form <= PLX_STATE_Q8; form++) {
        plx_session *session = open_session(model, (plx_state_form)form);
        size_t bytes = plx_session_state_bytes(session);
        if (form == PLX_STATE_WHOLE) whole = bytes;
        assert_int_equal(bytes, form == PLX_STATE_WHOLE ? whole : form == PLX_STATE_F16 ? whole / 2 : whole * 9 / 32);
        plx_session_free(session);
    }
    plx_model_free(model);
    plx_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_attention_packed),
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_bytes_of_sessions),
    };
    return cmocka_run_group_tests_name("state", tests, open_contexts, close_contexts);
}
