/* test_nexus.c - nexus: its gate at every level against the plain reference in double, the reference against the
 * definition; and what nexus layers must share with attention ones. (What holds for every mixer is in test_mixers.c.)
 */
#include "mixers/mixer.h"
#include "mixers/nexus/nexus_ops.h"
#include "support/models.h"
#include "support/problem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fill_nan(problem *p, int index)
{
    for (size_t i = 0; i < p->arrays[index].count; i++) set(p, index, i, NAN);
}

/* ---- the gate of nexus ---- */

enum { BASE, REFINED, GATE, GATE_OUT, GATE_DOUT, DREFINED, DBASE, DGATE };
static void bind_gate(const problem *p, plx_type type, void *arguments)
{
    *(plx_nexus_gate_args *)arguments = (plx_nexus_gate_args){.type = type,
                                                              .gate_type = type,
                                                              .count = p->dims[0],
                                                              .base = at(p, type, BASE),
                                                              .refined = at(p, type, REFINED),
                                                              .gate = at(p, type, GATE),
                                                              .out = at(p, type, GATE_OUT)};
}
static void bind_gate_backward(const problem *p, plx_type type, void *arguments)
{
    *(plx_nexus_gate_backward_args *)arguments =
        (plx_nexus_gate_backward_args){.type = type,
                                       .gate_type = type,
                                       .count = p->dims[0],
                                       .base = at(p, type, BASE),
                                       .refined = at(p, type, REFINED),
                                       .gate = at(p, type, GATE),
                                       .dout = at(p, type, GATE_DOUT),
                                       .drefined = at(p, type, p->flags ? GATE_DOUT : DREFINED),
                                       .dbase = at(p, type, DBASE),
                                       .dgate = at(p, type, DGATE)};
}
static problem gate_problem(size_t count, bool backward, bool in_place)
{
    problem p = {.op = backward ? &plx_op_nexus_gate_backward : &plx_op_nexus_gate_forward,
                 .bind = backward ? bind_gate_backward : bind_gate,
                 .dims = {count},
                 .flags = in_place,
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
        cmocka_unit_test(fast_gate_agrees_with_the_reference),
        cmocka_unit_test(reference_gate_is_the_definition),
        cmocka_unit_test(nexus_begins_as_attention),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(long_orders_run),
    };
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
