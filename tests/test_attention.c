/* test_attention.c - the operations of attention and nexus: every fast version at every level against the plain
 * reference in double, the references against definitions and central differences; and what nexus layers must share
 * with attention ones. (What holds for every mixer, gradients of whole layers among it, is in test_mixers.c; steps are
 * in test_infer.c.) */
#include "mixers/attention/attention_ops.h"
#include "mixers/mixer.h"
#include "mixers/nexus/nexus_ops.h"
#include "support/models.h"
#include "support/problem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- problems ---- */

enum { MOST_TOKENS = 1600, MOST_ROWS = 8 };
/* The attention that binds read: one at a time. */
static struct {
    size_t B, T, H, G, d, window;
    int32_t start[MOST_TOKENS], past[MOST_ROWS], slot[MOST_ROWS], base[MOST_ROWS];
    size_t capacity, slots; /* of a state; 0: whole rows */
} shape;

enum { Q, K, V, OUT, LSE, DOUT, DQ, DK, DV };
#define SCALE 1.4 /* of inputs: logits are normal(0, 2), and stay under 10 */

static void set_shape(size_t B, size_t T, size_t H, size_t G, size_t d, size_t window, size_t document)
{
    assert_true(B * T <= MOST_TOKENS && B <= MOST_ROWS);
    memset(&shape, 0, sizeof shape);
    shape.B = B;
    shape.T = T;
    shape.H = H;
    shape.G = G;
    shape.d = d;
    shape.window = window;
    for (size_t i = 0; i < B * T; i++) {
        bool begins = i % T == 0 || (document > 0 && uniform(0, (double)document) < 1);
        shape.start[i] = begins ? (int32_t)(i % T) : shape.start[i - 1];
    }
}

static void bind_forward(const problem *p, plx_type type, void *arguments)
{
    plx_attention_args *a = arguments;
    const size_t width = shape.G * shape.d;
    *a = (plx_attention_args){
        .type = type, .sequence = {.rows = shape.B, .length = shape.T, .start = shape.start},
        .heads = shape.H, .kv_heads = shape.G, .head_dim = shape.d, .window = shape.window,
        .scale = 1 / sqrt((double)shape.d), .q = at(p, type, Q),
        .keys = {.data = at(p, type, K), .width = width, .row_stride = shape.T * width},
        .values = {.data = at(p, type, V), .width = width, .row_stride = shape.T * width},
        .out = at(p, type, OUT), .lse = at(p, type, LSE)};
    if (shape.capacity == 0) return;
    a->sequence.past = shape.past;
    a->keys.slot = a->values.slot = shape.slot;
    a->keys.base = a->values.base = shape.base;
    a->keys.row_stride = a->values.row_stride = shape.capacity * width;
}

static void bind_backward(const problem *p, plx_type type, void *arguments)
{
    *(plx_attention_backward_args *)arguments = (plx_attention_backward_args){
        .type = type, .sequence = {.rows = shape.B, .length = shape.T, .start = shape.start},
        .heads = shape.H, .kv_heads = shape.G, .head_dim = shape.d, .window = shape.window,
        .scale = 1 / sqrt((double)shape.d), .q = at(p, type, Q), .k = at(p, type, K), .v = at(p, type, V),
        .out = at(p, type, OUT), .lse = at(p, type, LSE), .dout = at(p, type, DOUT),
        .dq = at(p, type, DQ), .dk = at(p, type, DK), .dv = at(p, type, DV)};
}

static void fill_nan(problem *p, int index)
{
    for (size_t i = 0; i < p->arrays[index].count; i++) set(p, index, i, NAN);
}

static problem forward_problem(void)
{
    problem p = {.op = &plx_op_attention_forward, .bind = bind_forward,
                 .dims = {shape.T, shape.d, shape.window, shape.H}, .flags = (int)shape.G,
                 .outputs = {1 + OUT, 1 + LSE}, .tolerance = 2e-6};
    size_t queries = shape.B * shape.T * shape.H, tokens = shape.B * shape.T;
    if (shape.capacity > 0) tokens = shape.slots * shape.capacity;
    fill(&p, Q, queries * shape.d, SCALE);
    fill(&p, K, tokens * shape.G * shape.d, SCALE);
    fill(&p, V, tokens * shape.G * shape.d, 1);
    fill(&p, OUT, queries * shape.d, 1);
    fill(&p, LSE, queries, 1);
    fill_nan(&p, OUT);
    fill_nan(&p, LSE);
    return p;
}

/* out and lse as the forward in double makes them. */
static problem backward_problem(void)
{
    problem p = forward_problem();
    run(plain, &p, PLX_F64);
    for (int i = OUT; i <= LSE; i++)
        for (size_t j = 0; j < p.arrays[i].count; j++) p.arrays[i].single[j] = (float)p.arrays[i].twice[j];
    fill(&p, DOUT, p.arrays[Q].count, 1);
    fill(&p, DQ, p.arrays[Q].count, 1);
    fill(&p, DK, p.arrays[K].count, 1);
    fill(&p, DV, p.arrays[K].count, 1);
    for (int i = DQ; i <= DV; i++) fill_nan(&p, i);
    p.op = &plx_op_attention_backward;
    p.bind = bind_backward;
    p.outputs[0] = 1 + DQ;
    p.outputs[1] = 1 + DK;
    p.outputs[2] = 1 + DV;
    p.tolerance = 1e-5;
    return p;
}

/* B, T, heads, kv heads, width, window, tokens a document */
static const size_t shapes[][7] = {
    {1, 1, 1, 1, 1, 0, 0},    {2, 1, 4, 2, 6, 0, 0},    {1, 15, 2, 2, 6, 0, 0},   {3, 17, 4, 4, 24, 0, 5},
    {1, 64, 1, 1, 32, 0, 0},  {2, 65, 4, 2, 16, 7, 0},  {1, 100, 3, 1, 17, 0, 30}, {1, 130, 2, 1, 80, 33, 0},
    {1, 96, 6, 2, 5, 1, 9},   {1, 70, 2, 2, 256, 0, 40}, {1, 160, 2, 2, 9, 64, 70}, {2, 33, 70, 1, 4, 0, 12},
    {1, 150, 2, 1, 31, 40, 2}, {1, 200, 1, 1, 33, 300, 0},
    {1, 300, 4, 1, 4, 0, 0},  {1, 280, 8, 2, 7, 90, 150}, /* backward: chunks of queries */
};

static void fast_forward_agrees_with_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const size_t *s = shapes[i];
        set_shape(s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
        problem p = forward_problem();
        check(&p);
    }
}

static void fast_backward_agrees_with_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const size_t *s = shapes[i];
        set_shape(s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
        problem p = backward_problem();
        check(&p);
    }
}

/* Rows of a state: other slots, tokens dropped before base, documents that began earlier. What no query sees is NaN. */
static void fast_steps_agree_with_the_reference(void **state)
{
    (void)state;
    static const size_t steps[][5] = { /* T, heads, kv heads, width, window */
        {1, 4, 2, 6, 0}, {1, 1, 1, 64, 0}, {5, 4, 1, 24, 9}, {70, 2, 2, 33, 20}, {3, 6, 3, 16, 1}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        const size_t *s = steps[i];
        static const int32_t past[3] = {70, 0, 133}, slot[3] = {3, 0, 1};
        set_shape(3, s[0], s[1], s[2], s[3], s[4], 0);
        shape.slots = 4;
        shape.capacity = 133 + s[0];
        for (size_t b = 0; b < 3; b++) {
            shape.past[b] = past[b];
            shape.slot[b] = slot[b];
            for (size_t t = 0; t < s[0]; t++) shape.start[b * s[0] + t] = t < 3 ? past[b] / 4 : past[b] + 3;
            shape.base[b] = (int32_t)plx_attention_first(&(plx_sequence){3, s[0], shape.start, shape.past}, b, 0, s[4]);
        }
        problem p = forward_problem();
        const size_t width = shape.G * shape.d;
        for (size_t j = 0; j < p.arrays[K].count; j++) {
            bool seen = false;
            for (size_t b = 0; b < 3; b++) {
                size_t first = (size_t)slot[b] * shape.capacity, held = (size_t)(past[b] - shape.base[b]) + s[0];
                if (j / width >= first && j / width < first + held) seen = true;
            }
            if (!seen) p.arrays[K].single[j] = p.arrays[V].single[j] = NAN;
        }
        check(&p);
    }
}

/* ---- references ---- */

/* Queries of 0 average the values they see; a window of 1 gives the own value and score. */
static void reference_forward_is_the_definition(void **state)
{
    (void)state;
    set_shape(2, 9, 4, 2, 3, 4, 5);
    problem p = forward_problem();
    for (size_t i = 0; i < p.arrays[Q].count; i++) set(&p, Q, i, 0);
    run(plain, &p, PLX_F64);
    for (size_t b = 0; b < 2; b++)
        for (size_t t = 0; t < 9; t++)
            for (size_t h = 0; h < 4; h++) {
                size_t first = (size_t)shape.start[b * 9 + t];
                if (t >= 3 && t - 3 > first) first = t - 3;
                double count = (double)(t - first + 1);
                assert_close(p.arrays[LSE].twice[(b * 9 + t) * 4 + h], log(count), 1e-14);
                for (size_t c = 0; c < 3; c++) {
                    double mean = 0;
                    for (size_t j = first; j <= t; j++)
                        mean += p.arrays[V].twice[((b * 9 + j) * 2 + h / 2) * 3 + c] / count;
                    assert_close(p.arrays[OUT].twice[((b * 9 + t) * 4 + h) * 3 + c], mean, 1e-14);
                }
            }
    release(&p);

    set_shape(1, 5, 1, 1, 4, 1, 0);
    p = forward_problem();
    run(plain, &p, PLX_F64);
    for (size_t t = 0; t < 5; t++) {
        double score = 0;
        for (size_t c = 0; c < 4; c++) {
            score += p.arrays[Q].twice[t * 4 + c] * p.arrays[K].twice[t * 4 + c] / 2;
            assert_close(p.arrays[OUT].twice[t * 4 + c], p.arrays[V].twice[t * 4 + c], 1e-14);
        }
        assert_close(p.arrays[LSE].twice[t], score, 1e-13);
    }
    release(&p);
}

/* sum of out * dout after a forward in double */
static double objective(problem *p)
{
    double sum = 0;
    problem forward = *p;
    forward.op = &plx_op_attention_forward;
    forward.bind = bind_forward;
    run(plain, &forward, PLX_F64);
    for (size_t i = 0; i < p->arrays[OUT].count; i++) sum += p->arrays[OUT].twice[i] * p->arrays[DOUT].twice[i];
    return sum;
}

static void reference_backward_matches_central_differences(void **state)
{
    (void)state;
    static const size_t cases[][7] = {{2, 7, 2, 2, 3, 0, 0}, {1, 9, 4, 2, 5, 3, 4}, {1, 8, 3, 1, 2, 0, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t *s = cases[i];
        set_shape(s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
        problem p = backward_problem();
        run(plain, &p, PLX_F64);
        for (int input = Q; input <= V; input++) {
            double error = 0, norm = 0;
            const double *gradient = p.arrays[DQ + input - Q].twice;
            for (size_t j = 0; j < p.arrays[input].count; j++) {
                double *x = p.arrays[input].twice + j, given = *x, f[4];
                static const double steps[4] = {-2e-3, -1e-3, 1e-3, 2e-3};
                for (int k = 0; k < 4; k++) {
                    *x = given + steps[k];
                    f[k] = objective(&p);
                }
                *x = given;
                double measured = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / 12e-3;
                error += (measured - gradient[j]) * (measured - gradient[j]);
                norm += gradient[j] * gradient[j];
            }
            assert_true(norm > 0);
            assert_close(sqrt(error / norm), 0, 1e-8);
        }
        release(&p);
    }
}

/* A score that is not a number, or overflows, shows in the output of the queries that see it, and only there. */
static void not_a_number_comes_through(void **state)
{
    (void)state;
    set_shape(1, 40, 1, 1, 16, 0, 0);
    for (int level = 0; level < LEVELS; level++) {
        if (contexts[level][0] == NULL) continue;
        problem p = forward_problem();
        p.arrays[K].single[20 * 16 + 3] = NAN;
        run(contexts[level][0], &p, PLX_F32);
        for (size_t t = 0; t < 40; t++)
            assert_int_equal(isnan(p.arrays[OUT].single[t * 16]) != 0, t >= 20);
        release(&p);
    }
}

/* Scores in the thousands: the softmax is nearly one-hot, and nothing overflows. */
static void large_scores_do_not_overflow(void **state)
{
    (void)state;
    set_shape(1, 90, 2, 1, 12, 0, 40);
    problem p = forward_problem();
    for (size_t i = 0; i < p.arrays[Q].count; i++) set(&p, Q, i, 700 * p.arrays[Q].twice[i]);
    p.tolerance = 1e-2; /* a rounded score of 3000 is off by 1e-4, and by more where two are nearly equal */
    check(&p);
}

static void flops_count_useful_pairs(void **state)
{
    (void)state;
    for (size_t window = 0; window < 12; window++) {
        double pairs = 0;
        for (size_t t = 0; t < 9; t++) pairs += (double)(window > 0 && window < t + 1 ? window : t + 1);
        assert_close(plx_attention_pairs(3, 9, window), 3 * pairs, 0);
    }
    plx_attention_args a = {.sequence = {.rows = 2, .length = 10}, .heads = 3, .kv_heads = 1, .head_dim = 5};
    plx_attention_backward_args b = {.sequence = {.rows = 2, .length = 10}, .heads = 3, .kv_heads = 1, .head_dim = 5};
    assert_close(plx_op_attention_forward.flops(&a), 4.0 * 5 * 3 * 2 * 55, 0);
    assert_close(plx_op_attention_backward.flops(&b), 10.0 * 5 * 3 * 2 * 55, 0);
}

/* ---- the gate of nexus ---- */

enum { BASE, REFINED, GATE, GATE_OUT, GATE_DOUT, DREFINED, DBASE, DGATE };
static void bind_gate(const problem *p, plx_type type, void *arguments)
{
    *(plx_nexus_gate_args *)arguments = (plx_nexus_gate_args){
        .type = type, .gate_type = type, .count = p->dims[0], .base = at(p, type, BASE),
        .refined = at(p, type, REFINED), .gate = at(p, type, GATE), .out = at(p, type, GATE_OUT)};
}
static void bind_gate_backward(const problem *p, plx_type type, void *arguments)
{
    *(plx_nexus_gate_backward_args *)arguments = (plx_nexus_gate_backward_args){
        .type = type, .gate_type = type, .count = p->dims[0], .base = at(p, type, BASE),
        .refined = at(p, type, REFINED), .gate = at(p, type, GATE), .dout = at(p, type, GATE_DOUT),
        .drefined = at(p, type, p->flags ? GATE_DOUT : DREFINED), .dbase = at(p, type, DBASE),
        .dgate = at(p, type, DGATE)};
}
static problem gate_problem(size_t count, bool backward, bool in_place)
{
    problem p = {.op = backward ? &plx_op_nexus_gate_backward : &plx_op_nexus_gate_forward,
                 .bind = backward ? bind_gate_backward : bind_gate, .dims = {count}, .flags = in_place,
                 .tolerance = backward ? 1e-5 : 2e-6};
    for (int i = BASE; i <= DGATE; i++) fill(&p, i, i == GATE || i == DGATE ? 1 : count, 1);
    for (size_t i = 0; i < count; i++) /* leans to dout, so that the gate's gradient is a sum that does not cancel */
        set(&p, REFINED, i, p.arrays[BASE].twice[i] + p.arrays[GATE_DOUT].twice[i] + 0.5 * p.arrays[REFINED].twice[i]);
    if (!backward) fill_nan(&p, GATE_OUT);
    p.outputs[0] = 1 + (backward ? in_place ? GATE_DOUT : DREFINED : GATE_OUT);
    if (backward) p.outputs[1] = 1 + DBASE;
    if (backward) p.outputs[2] = 1 + DGATE;
    return p;
}

static void fast_gate_agrees_with_the_reference(void **state)
{
    (void)state;
    static const size_t counts[] = {1, 15, 17, 1024, 16385, 40000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int way = 0; way < 3; way++) {
            problem p = gate_problem(counts[i], way > 0, way > 1);
            check(&p);
        }
}

static void reference_gate_is_the_definition(void **state)
{
    (void)state;
    problem p = gate_problem(5, true, false);
    double g = p.arrays[GATE].twice[0], share = tanh(g), dgate = p.arrays[DGATE].twice[0], base[5];
    for (int i = 0; i < 5; i++) base[i] = p.arrays[DBASE].twice[i];
    run(plain, &p, PLX_F64);
    for (int i = 0; i < 5; i++) {
        double d = p.arrays[GATE_DOUT].twice[i], h = 1e-4;
        dgate += d * (tanh(g + h) - tanh(g - h)) / (2 * h) * (p.arrays[REFINED].twice[i] - p.arrays[BASE].twice[i]);
        assert_close(p.arrays[DREFINED].twice[i], share * d, 1e-15);
        assert_close(p.arrays[DBASE].twice[i], base[i] + (1 - share) * d, 1e-14);
    }
    assert_close(p.arrays[DGATE].twice[0], dgate, 1e-7);
    p.op = &plx_op_nexus_gate_forward;
    p.bind = bind_gate;
    run(plain, &p, PLX_F64);
    for (int i = 0; i < 5; i++)
        assert_close(p.arrays[GATE_OUT].twice[i],
                     p.arrays[BASE].twice[i] + share * (p.arrays[REFINED].twice[i] - p.arrays[BASE].twice[i]), 1e-15);
    release(&p);
}

/* ---- layers ---- */

/* Logits of a model of two such layers with the same weights by name, gates set to `gate`. */
static double *layer_logits(const char *mixer, const char *layer_case, const char *extra, double gate)
{
    char *config = test_config(mixer, layer_case, 2, extra);
    plx_model *model = test_model(plain, config, PLX_F64, 3);
    for (size_t i = 0; i < plx_model_tensor_count(model); i++) {
        plx_tensor_info info;
        expect_ok(plain, plx_model_tensor(model, i, &info));
        if (strstr(info.name, "mixer.gate_") == NULL) continue;
        expect_ok(plain, plx_model_write_tensor(model, info.name, &gate, 1));
    }
    test_batch batch = make_batch(2, 11, 11, 6, 4);
    double *logits = test_logits(model, &batch.batch);
    free_batch(&batch);
    plx_model_free(model);
    free(config);
    return logits;
}

/* A nexus layer of order 1 is attention, and with gates at 0 so is any other; with gates at infinity it has none. */
static void nexus_begins_as_attention(void **state)
{
    (void)state;
    static const char *const options[] = {
        "{}", "{\"window\": 4, \"qk_norm\": true}",
        "{\"num_key_value_heads\": 2, \"attention_bias\": true, \"attention_out_bias\": true}"};
    static const char *const inner[] = {"reproject", "self", "own"}, *const branches[] = {"qk", "q", "k"};
    const char *extra = "\"partial_rotary_factor\": 0.7";
    const size_t count = 2 * 11 * 11;
    for (size_t i = 0; i < 3; i++) {
        double *attention = layer_logits("attention", options[i], extra, 0);
        for (size_t j = 0; j < 9; j++) {
            char layer[300], keys[100];
            const char *more = strlen(options[i]) > 2 ? ", " : "";
            snprintf(keys, sizeof keys, "\"order\": %d, \"inner\": \"%s\", \"branches\": \"%s\"", j / 3 == 2 ? 2 : 3,
                     inner[j / 3], branches[j % 3]);
            snprintf(layer, sizeof layer, "{%s, \"gate\": \"scalar\"%s%s", keys, more, options[i] + 1);
            double *closed = layer_logits("nexus", layer, extra, 0), *open = layer_logits("nexus", layer, extra, 40);
            assert_close(relative_error(closed, attention, count), 0, 1e-12);
            assert_true(relative_error(open, attention, count) > 1e-3);
            snprintf(layer, sizeof layer, "{%s%s%s", keys, more, options[i] + 1);
            double *none = layer_logits("nexus", layer, extra, 0);
            assert_close(relative_error(open, none, count), 0, 1e-12);
            free(closed);
            free(open);
            free(none);
            if (j / 3 == 2) continue;
            snprintf(layer, sizeof layer, "{\"order\": 1, \"inner\": \"%s\"%s%s", inner[j / 3], more, options[i] + 1);
            double *first = layer_logits("nexus", layer, extra, 0);
            assert_close(relative_error(first, attention, count), 0, 1e-12);
            free(first);
        }
        free(attention);
    }
}

static void expect_refused(const char *mixer, const char *layer_case, const char *says)
{
    char *config = test_config(mixer, layer_case, 1, NULL);
    plx_model *model = NULL;
    assert_int_not_equal(plx_model_create(plain, config, NULL, &model), PLX_OK);
    assert_null(model);
    if (strstr(plx_context_error(plain)->message, says) == NULL)
        fail_msg("%s: \"%s\" does not say \"%s\"", layer_case, plx_context_error(plain)->message, says);
    free(config);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    expect_refused("attention", "{\"window\": 0}", "window");
    expect_refused("attention", "{\"window\": \"all\"}", "window");
    expect_refused("attention", "{\"order\": 2}", "order");
    expect_refused("nexus", "{\"order\": 0}", "order");
    expect_refused("nexus", "{\"order\": 64}", "decoding state");
    expect_refused("nexus", "{\"order\": 32, \"inner\": \"self\"}", "decoding state");
    expect_refused("nexus", "{\"order\": 3, \"inner\": \"own\"}", "own");
    expect_refused("nexus", "{\"branches\": \"v\"}", "branches");
    expect_refused("nexus", "{\"inner\": \"outer\"}", "inner");
    expect_refused("nexus", "{\"gate\": \"vector\"}", "gate");
    expect_refused("nexus", "{\"window\": -1}", "window");
}

/* The parts of a layer's state are as many as its step appends to, and no more than there may be. */
static void long_orders_run(void **state)
{
    (void)state;
    static const char *const layers[] = {"{\"order\": 63}", "{\"order\": 64, \"branches\": \"q\"}",
                                         "{\"order\": 31, \"inner\": \"self\", \"gate\": \"scalar\"}"};
    for (size_t i = 0; i < 3; i++) {
        char *config = test_config("nexus", layers[i], 1, NULL);
        plx_model *model = NULL;
        plx_session *session = NULL;
        expect_ok(plain, plx_model_create(plain, config, NULL, &model));
        expect_ok(plain, plx_session_create(model, NULL, &session));
        static const int32_t tokens[3] = {1, 5, 2};
        const plx_session_row first = {.tokens = tokens, .count = 2}, second = {.tokens = tokens + 2, .count = 1};
        float logits[11];
        double expected[3 * 11];
        expect_ok(plain, plx_session_step(session, &first, 1, NULL, NULL));
        expect_ok(plain, plx_session_step(session, &second, 1, logits, NULL));
        expect_ok(plain, plx_model_logits(model, &(plx_batch){.rows = 1, .length = 3, .inputs = tokens}, expected));
        for (size_t v = 0; v < 11; v++) assert_close(logits[v], expected[2 * 11 + v], 1e-5);
        plx_session_free(session);
        plx_model_free(model);
        free(config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_forward_agrees_with_the_reference),
        cmocka_unit_test(fast_backward_agrees_with_the_reference),
        cmocka_unit_test(fast_steps_agree_with_the_reference),
        cmocka_unit_test(reference_forward_is_the_definition),
        cmocka_unit_test(reference_backward_matches_central_differences),
        cmocka_unit_test(not_a_number_comes_through),
        cmocka_unit_test(large_scores_do_not_overflow),
        cmocka_unit_test(flops_count_useful_pairs),
        cmocka_unit_test(fast_gate_agrees_with_the_reference),
        cmocka_unit_test(reference_gate_is_the_definition),
        cmocka_unit_test(nexus_begins_as_attention),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(long_orders_run),
    };
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
