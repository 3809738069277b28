/* test_infer.c - sessions: whatever the order in which tokens come, a step gives what a forward gives; what is done to
 * a slot (fork, cut, save, restore) leaves no trace; bounded states stay bounded. For every mixer and case of the
 * registry. */
#include "core/random.h"
#include "infer/state.h"
#include "support/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VOCAB 61 /* as many tokens as the longest sequence has, so that tokens can all differ */
#define WITH_VOCAB "\"vocab_size\": 61"
#define TOLERANCE 1e-5 /* of the norm of the logits: the shapes of the products differ */

typedef struct sequence {
    test_batch batch; /* one row */
    double *logits;   /* by forward */
    float *stepped;   /* by steps */
    bool *begins;
    size_t done;
} sequence;

/* ids: tokens are drawn from so many; 0: no token occurs twice. */
static sequence make_sequence(plx_model *model, size_t length, size_t document, size_t ids, uint64_t seed)
{
    sequence made = {.batch = make_batch(1, length, ids > 0 ? ids : VOCAB, document, seed)};
    for (size_t t = 0; t < length && ids == 0; t++)
        made.batch.inputs[t] = (int32_t)plx_random_permute(seed, 1, VOCAB, t);
    made.logits = test_logits(model, &made.batch.batch);
    made.stepped = calloc(length * VOCAB, sizeof *made.stepped);
    made.begins = calloc(length, sizeof *made.begins);
    for (size_t t = 0; t < length; t++) made.begins[t] = made.batch.start[t] == (int32_t)t;
    return made;
}

static void free_sequence(sequence *made)
{
    free_batch(&made->batch);
    free(made->logits);
    free(made->stepped);
    free(made->begins);
}

static plx_session *make_session(plx_model *model, size_t slots, size_t capacity, size_t chunk, size_t rollback)
{
    plx_session *session;
    plx_session_options options = {.slots = slots, .capacity = capacity, .chunk = chunk, .rollback = rollback};
    expect_ok(model->context, plx_session_create(model, &options, &session));
    return session;
}

static plx_session_row next_row(const sequence *from, size_t slot, size_t count)
{
    return (plx_session_row){.slot = slot,
                             .tokens = from->batch.inputs + from->done,
                             .count = count,
                             .new_document = from->begins + from->done};
}

static double error_of(const sequence *made)
{
    size_t count = made->done * VOCAB;
    double *stepped = malloc(count * sizeof *stepped);
    for (size_t i = 0; i < count; i++) stepped[i] = made->stepped[i];
    double error = relative_error(stepped, made->logits, count);
    free(stepped);
    return error;
}

/* Feeds one slot alone, `chunk` tokens at a time, up to `until`. */
static void feed(plx_session *session, sequence *from, size_t slot, size_t chunk, size_t until)
{
    while (from->done < until) {
        size_t count = until - from->done < chunk ? until - from->done : chunk;
        plx_session_row row = next_row(from, slot, count);
        expect_ok(session->context, plx_session_step(session, &row, 1, NULL, from->stepped + from->done * VOCAB));
        from->done += count;
    }
}

/* ---- step equals forward ---- */

#define SLOTS 3

/* Random rows in random order with random counts, until all sequences are done. */
static void feed_at_random(plx_session *session, sequence *sequences, size_t chunk, plx_random *random)
{
    for (;;) {
        plx_session_row rows[SLOTS];
        size_t count = 0, longest = 0, first = (size_t)plx_random_below(random, SLOTS), left = 0;
        for (size_t i = 0; i < SLOTS; i++) {
            size_t slot = (first + i) % SLOTS;
            size_t rest = sequences[slot].batch.batch.length - sequences[slot].done;
            left += rest;
            if (rest == 0 || plx_random_below(random, 3) == 0) continue;
            size_t wanted = 1 + (size_t)plx_random_below(random, chunk);
            rows[count] = next_row(&sequences[slot], slot, wanted < rest ? wanted : rest);
            if (rows[count].count > longest) longest = rows[count].count;
            count++;
        }
        if (left == 0) return;
        if (count == 0) continue;
        float *all = malloc(count * longest * VOCAB * sizeof *all), *last = malloc(count * VOCAB * sizeof *last);
        expect_ok(session->context, plx_session_step(session, rows, count, last, all));
        for (size_t b = 0; b < count; b++) {
            sequence *to = &sequences[rows[b].slot];
            const float *from = all + b * longest * VOCAB;
            memcpy(to->stepped + to->done * VOCAB, from, rows[b].count * VOCAB * sizeof *from);
            assert_memory_equal(last + b * VOCAB, from + (rows[b].count - 1) * VOCAB, VOCAB * sizeof *from);
            to->done += rows[b].count;
            assert_int_equal(plx_session_length(session, rows[b].slot), to->done);
        }
        free(all);
        free(last);
    }
}

/* With `repeats` tokens are drawn from few: what a mixer makes of equal tokens may hang on their being equal to the
 * last bit (grassmann: the plane of two equal vectors has no direction, that of two nearly equal ones has), so this
 * shows whether a step's products give the same bits as a forward's. */
static void check_steps(plx_type type, bool repeats, const char *mixer, const char *layer_case, size_t chunk,
                        uint64_t seed)
{
    static const size_t lengths[SLOTS] = {60, 31, 7};
    plx_context *context = test_context(1, NULL, NULL);
    plx_context_poison(context, true);
    char *config = test_config(mixer, layer_case, 2, WITH_VOCAB);
    plx_model *model = test_model(context, config, type, seed);
    plx_session *session = make_session(model, SLOTS, 60, chunk, 3);
    plx_random random;
    plx_random_init(&random, seed, 1);
    for (int again = 0; again < 2; again++) { /* the second time in slots that were used before */
        sequence sequences[SLOTS];
        for (size_t i = 0; i < SLOTS; i++) {
            size_t document = again == 0 ? 0 : 12;
            sequences[i] = make_sequence(model, lengths[(i + (size_t)again) % SLOTS], document, repeats ? 6 : 0,
                                         seed * 10 + i);
            expect_ok(context, plx_session_reset(session, i));
        }
        feed_at_random(session, sequences, chunk, &random);
        for (size_t i = 0; i < SLOTS; i++) {
            double error = error_of(&sequences[i]);
            if (!(error < TOLERANCE))
                fail_msg("%s %s, chunk %zu, sequence %zu of %zu tokens: error %.2g", mixer, layer_case, chunk, i,
                         sequences[i].batch.batch.length, error);
            free_sequence(&sequences[i]);
        }
    }
    plx_session_free(session);
    plx_model_free(model);
    plx_context_free(context);
    free(config);
}

static void steps_of_case(const char *mixer, const char *layer_case)
{
    check_steps(PLX_F32, true, mixer, layer_case, 9, 1);
    check_steps(PLX_F32, true, mixer, layer_case, 1, 2);
    check_steps(PLX_F32, false, mixer, layer_case, 7, 5);
    check_steps(PLX_F32, true, mixer, layer_case, 40, 3);
    check_steps(PLX_F64, true, mixer, layer_case, 6, 4);
}
static void test_steps_equal_forward(void **state)
{
    (void)state;
    each_case(steps_of_case);
}

/* The same steps on the device whose memory is unreadable outside kernels, and on one thread: the same bits. */
static void devices_of_case(const char *mixer, const char *layer_case)
{
    static const struct {
        int threads;
        const char *device;
    } on[] = {{1, NULL}, {2, NULL}, {2, "fenced"}};
    float *first = NULL;
    char *config = test_config(mixer, layer_case, 2, WITH_VOCAB);
    for (size_t i = 0; i < 3; i++) {
        plx_context *context = test_context(on[i].threads, on[i].device, NULL);
        plx_model *model = test_model(context, config, PLX_F32, 7);
        plx_session *session = make_session(model, 1, 64, 8, 2);
        sequence fed = make_sequence(model, 24, 9, 6, 5);
        feed(session, &fed, 0, 8, 24);
        if (!first) {
            first = malloc(24 * VOCAB * sizeof *first);
            memcpy(first, fed.stepped, 24 * VOCAB * sizeof *first);
        } else {
            assert_memory_equal(first, fed.stepped, 24 * VOCAB * sizeof *first);
        }
        free_sequence(&fed);
        plx_session_free(session);
        plx_model_free(model);
        plx_context_free(context);
    }
    free(first);
    free(config);
}
static void test_devices_and_threads(void **state)
{
    (void)state;
    each_case(devices_of_case);
}

/* ---- fork, cut, save, restore ---- */

typedef struct slots_fixture {
    plx_context *context;
    plx_model *model;
    plx_session *session;
} slots_fixture;

static slots_fixture open_fixture(const char *mixer, const char *layer_case)
{
    slots_fixture made = {.context = test_context(1, NULL, NULL)};
    char *config = test_config(mixer, layer_case, 2, WITH_VOCAB);
    plx_context_poison(made.context, true);
    made.model = test_model(made.context, config, PLX_F32, 11);
    made.session = make_session(made.model, 3, 200, 8, 10);
    free(config);
    return made;
}

static void close_fixture(slots_fixture *made)
{
    plx_session_free(made->session);
    plx_model_free(made->model);
    plx_context_free(made->context);
}

/* Goes on in a slot by the sequence's tokens `from` .. `until` and demands the logits that `expected` holds, to the bit
 * or within rounding. */
static void expect_same(plx_session *session, const sequence *expected, size_t slot, size_t from, size_t until,
                        bool bits)
{
    sequence copy = *expected;
    copy.done = from;
    copy.stepped = calloc(copy.batch.batch.length * VOCAB, sizeof *copy.stepped);
    feed(session, &copy, slot, 5, until);
    const float *a = copy.stepped + from * VOCAB, *b = expected->stepped + from * VOCAB;
    size_t count = (until - from) * VOCAB;
    if (bits) assert_memory_equal(a, b, count * sizeof *a);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += (double)(a[i] - b[i]) * (a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    assert_true(difference <= TOLERANCE * TOLERANCE * norm);
    free(copy.stepped);
}

static void fork_of_case(const char *mixer, const char *layer_case)
{
    slots_fixture on = open_fixture(mixer, layer_case);
    sequence fed = make_sequence(on.model, 60, 20, 6, 3), other = make_sequence(on.model, 60, 20, 6, 4);
    void *saved, *saved_again;
    size_t bytes, bytes_again;
    feed(on.session, &other, 1, 8, 30); /* what lay in the other slot before must not matter */
    feed(on.session, &fed, 0, 5, 40);
    expect_ok(on.context, plx_session_fork(on.session, 0, 1));
    expect_ok(on.context, plx_session_save(on.session, 0, &saved, &bytes));
    feed(on.session, &fed, 0, 5, 60);
    expect_same(on.session, &fed, 1, 40, 60, true);

    expect_ok(on.context, plx_session_restore(on.session, 2, saved, bytes));
    assert_int_equal(plx_session_length(on.session, 2), 40);
    expect_ok(on.context, plx_session_save(on.session, 2, &saved_again, &bytes_again));
    assert_int_equal(bytes, bytes_again);
    assert_memory_equal(saved, saved_again, bytes);
    expect_same(on.session, &fed, 2, 40, 60, true);

    plx_session *elsewhere = make_session(on.model, 2, 200, 8, 10);
    expect_ok(on.context, plx_session_restore(elsewhere, 1, saved, bytes));
    expect_same(elsewhere, &fed, 1, 40, 60, true);
    plx_session_free(elsewhere);
    plx_session_state_free(on.session, saved);
    plx_session_state_free(on.session, saved_again);
    free_sequence(&fed);
    free_sequence(&other);
    close_fixture(&on);
}
static void test_fork_save_restore(void **state)
{
    (void)state;
    each_case(fork_of_case);
}

/* Tokens that are cut away again leave no trace: once within a document, once over the beginnings of several. */
static void cut_of_case(const char *mixer, const char *layer_case)
{
    slots_fixture on = open_fixture(mixer, layer_case);
    sequence fed = make_sequence(on.model, 60, 25, 0, 3);
    feed(on.session, &fed, 0, 5, 45);
    expect_ok(on.context, plx_session_fork(on.session, 0, 1));
    feed(on.session, &fed, 0, 5, 60);
    for (int documents = 0; documents < 2; documents++) {
        static const int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        static const bool begins[8] = {false, true, false, true, true, false, false, true};
        plx_session_row row = {.slot = 1, .tokens = tokens, .count = 8, .new_document = documents ? begins : NULL};
        expect_ok(on.context, plx_session_step(on.session, &row, 1, NULL, NULL));
        row.count = 2;
        expect_ok(on.context, plx_session_step(on.session, &row, 1, NULL, NULL));
        expect_ok(on.context, plx_session_cut(on.session, 1, 45));
        assert_int_equal(plx_session_length(on.session, 1), 45);
        expect_ok(on.context, plx_session_fork(on.session, 1, 2));
        expect_same(on.session, &fed, 2, 45, 60, false);
    }
    /* Back beyond what rollback promises: either refused with nothing changed, or right. */
    plx_status status = plx_session_cut(on.session, 1, 20);
    if (status == PLX_OK) {
        expect_same(on.session, &fed, 1, 20, 60, false);
    } else {
        assert_int_equal(status, PLX_ERROR_VALUE);
        assert_non_null(strstr(plx_context_error(on.context)->message, "rollback"));
        assert_int_equal(plx_session_length(on.session, 1), 45);
        expect_same(on.session, &fed, 1, 45, 60, false);
    }
    expect_ok(on.context, plx_session_cut(on.session, 1, 0)); /* nothing is needed for an empty slot */
    expect_same(on.session, &fed, 1, 0, 60, false);
    assert_int_equal(plx_session_cut(on.session, 1, 61), PLX_ERROR_VALUE);
    free_sequence(&fed);
    close_fixture(&on);
}
/* Back as far as a slot lets itself be cut: what is not refused must be right, so that a mixer which says that it needs
 * fewer tokens than it does is found out. */
static void furthest_cut_of_case(const char *mixer, const char *layer_case)
{
    plx_context *context = test_context(1, NULL, NULL);
    char *config = test_config(mixer, layer_case, 2, WITH_VOCAB);
    plx_model *model = test_model(context, config, PLX_F32, 11);
    plx_session *session = make_session(model, 2, 60, 5, 1);
    sequence fed = make_sequence(model, 60, 0, 0, 3);
    for (size_t until = 12; until <= 54; until += 7) {
        size_t length = 1;
        feed(session, &fed, 0, 5, until);
        expect_ok(context, plx_session_fork(session, 0, 1));
        while (length < until && plx_session_cut(session, 1, length) != PLX_OK) length++;
        if (length < until) expect_same(session, &fed, 1, length, until, false);
    }
    free_sequence(&fed);
    plx_session_free(session);
    plx_model_free(model);
    plx_context_free(context);
    free(config);
}
static void test_cut(void **state)
{
    (void)state;
    each_case(cut_of_case);
    each_case(furthest_cut_of_case);
}

/* ---- bounds ---- */

static bool is_bounded(const plx_session *session)
{
    for (size_t i = 0; i < session->part_count; i++)
        if (session->parts[i].keep == 0 || session->parts[i].keep > 1000) return false;
    return true;
}

/* Many short documents, far more tokens than any window: neither device state nor the list of documents grows. */
static size_t bounded_cases;
static void bounds_of_case(const char *mixer, const char *layer_case)
{
    plx_context *context = test_context(1, NULL, NULL);
    char *config = test_config(mixer, layer_case, 2, WITH_VOCAB);
    plx_model *model = test_model(context, config, PLX_F32, 7);
    plx_session *small = make_session(model, 1, 2000, 16, 4), *large = make_session(model, 1, 100000, 16, 4);
    if (is_bounded(small)) {
        bounded_cases++;
        assert_int_equal(plx_session_state_bytes(small), plx_session_state_bytes(large));
        static const int32_t tokens[16] = {1, 5, 3, 2, 9, 0, 4, 7, 8, 10, 6, 2, 3, 1, 7, 5};
        static const bool begins[16] = {[3] = true, [4] = true, [9] = true};
        plx_session_row row = {.slot = 0, .tokens = tokens, .count = 16, .new_document = begins};
        for (int i = 0; i < 200; i++) expect_ok(context, plx_session_step(large, &row, 1, NULL, NULL));
        assert_int_equal(plx_session_length(large, 0), 3200);
        assert_true(large->slot[0].start_room < 600);
        void *saved;
        size_t bytes;
        expect_ok(context, plx_session_save(large, 0, &saved, &bytes));
        assert_true(bytes < plx_session_state_bytes(large) + 4096);
        plx_session_state_free(large, saved);
    } else {
        assert_true(plx_session_state_bytes(small) < plx_session_state_bytes(large));
    }
    plx_session_free(small);
    plx_session_free(large);
    plx_model_free(model);
    plx_context_free(context);
    free(config);
}
static void test_bounded(void **state)
{
    (void)state;
    bounded_cases = 0;
    each_case(bounds_of_case);
    for (size_t m = 0; plx_mixers[m] != NULL; m++) /* of one mixer alone none need be bounded */
        if (!mixer_is_tested(plx_mixers[m]->name)) return;
    assert_true(bounded_cases > 0);
}

/* ---- what is refused ---- */

static void expect_refused(plx_session *session, const plx_session_row *rows, size_t count, const char *words)
{
    assert_int_equal(plx_session_step(session, rows, count, NULL, NULL), PLX_ERROR_VALUE);
    const char *message = plx_context_error(session->context)->message;
    if (!strstr(message, words)) fail_msg("'%s' lacks '%s'", message, words);
}

static slots_fixture open_first(void)
{
    return open_fixture(plx_mixers[0]->name, plx_mixers[0]->cases[0]);
}

static void test_refusals(void **state)
{
    (void)state;
    slots_fixture on = open_first();
    static const int32_t tokens[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, bad[2] = {1, VOCAB}, negative[1] = {-1};
    expect_refused(on.session, &(plx_session_row){.slot = 3, .tokens = tokens, .count = 1}, 1, "slot 3");
    expect_refused(on.session, &(plx_session_row){.slot = 0, .tokens = tokens, .count = 9}, 1, "chunk");
    expect_refused(on.session, &(plx_session_row){.slot = 0, .tokens = tokens, .count = 0}, 1, "0 tokens");
    expect_refused(on.session, &(plx_session_row){.slot = 0, .tokens = bad, .count = 2}, 1, "61");
    expect_refused(on.session, &(plx_session_row){.slot = 0, .tokens = negative, .count = 1}, 1, "-1");
    plx_session_row twice[2] = {{.slot = 1, .tokens = tokens, .count = 1}, {.slot = 1, .tokens = tokens, .count = 1}};
    expect_refused(on.session, twice, 2, "both name slot 1");
    expect_refused(on.session, twice, 0, "0 rows");
    plx_session_row eight = {.slot = 0, .tokens = tokens, .count = 8}, one = {.slot = 0, .tokens = tokens, .count = 1};
    for (int i = 0; i < 25; i++) expect_ok(on.context, plx_session_step(on.session, &eight, 1, NULL, NULL));
    expect_refused(on.session, &one, 1, "capacity of 200");
    assert_int_equal(plx_session_length(on.session, 0), 200);
    assert_int_equal(plx_session_reset(on.session, 3), PLX_ERROR_VALUE);
    assert_int_equal(plx_session_fork(on.session, 0, 3), PLX_ERROR_VALUE);
    assert_int_equal(plx_session_cut(on.session, 7, 0), PLX_ERROR_VALUE);
    plx_session *none;
    plx_session_options huge = {.slots = 1000000, .capacity = 1000000000};
    assert_int_equal(plx_session_create(on.model, &huge, &none), PLX_ERROR_MEMORY);
    assert_null(none);
    close_fixture(&on);
}

/* A state from a file may be anything: an error or a slot that works, never a crash. */
static void damage_of_case(const char *mixer, const char *layer_case)
{
    slots_fixture on = open_fixture(mixer, layer_case);
    sequence fed = make_sequence(on.model, 40, 9, 6, 3);
    void *saved;
    size_t bytes;
    plx_random random;
    plx_random_init(&random, 1, 1);
    feed(on.session, &fed, 0, 5, 40);
    expect_ok(on.context, plx_session_save(on.session, 0, &saved, &bytes));
    for (size_t cut = 0; cut < bytes; cut += cut < 200 ? 1 : bytes / 50 + 1) {
        char *exact = malloc(cut + 1); /* so that a sanitizer sees reads beyond */
        memcpy(exact, saved, cut);
        assert_int_not_equal(plx_session_restore(on.session, 1, exact, cut), PLX_OK);
        free(exact);
    }
    char *longer = calloc(1, bytes + 1);
    memcpy(longer, saved, bytes);
    assert_int_equal(plx_session_restore(on.session, 1, longer, bytes + 1), PLX_ERROR_FORMAT);
    free(longer);
    char *damaged = malloc(bytes);
    for (int i = 0; i < 300; i++) {
        memcpy(damaged, saved, bytes);
        damaged[plx_random_below(&random, bytes < 160 ? bytes : 160)] ^= (char)(1 << plx_random_below(&random, 8));
        if (plx_session_restore(on.session, 1, damaged, bytes) != PLX_OK) continue;
        static const int32_t tokens[2] = {1, 2};
        plx_session_row row = {.slot = 1, .tokens = tokens, .count = 2};
        expect_ok(on.context, plx_session_step(on.session, &row, 1, NULL, NULL));
    }
    free(damaged);
    plx_session_state_free(on.session, saved);
    free_sequence(&fed);
    close_fixture(&on);
}
static void test_damaged_states(void **state)
{
    (void)state;
    for (size_t m = 0; plx_mixers[m] != NULL; m++)
        if (mixer_is_tested(plx_mixers[m]->name)) damage_of_case(plx_mixers[m]->name, plx_mixers[m]->cases[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_equal_forward),
        cmocka_unit_test(test_devices_and_threads),
        cmocka_unit_test(test_fork_save_restore),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_damaged_states),
    };
    return cmocka_run_group_tests_name("infer", tests, NULL, NULL);
}
