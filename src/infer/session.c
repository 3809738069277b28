/* session.c - sequences that grow: a step runs the model on new tokens against the state of their slots.
 *
 * The model's arena gives it working memory, kept from step to step. */
#include "infer/state.h"

#include <string.h>

#define STEP_USUAL 1024 /* tokens of a step that memory is set aside for */

/* Lays the staging numbers of a step out from `block` on: (2 + 3 parts) * rows of them. */
static plx_session_staging lay_out(int32_t *block, size_t rows, size_t parts)
{
    plx_session_staging at;
    at.slot = block;
    at.last = at.slot + rows;
    at.base = at.last + rows;
    at.from = at.base + parts * rows;
    at.count = at.from + parts * rows;
    return at;
}

/* What a pass is to bring back, and for which rows. */
typedef struct step_pass {
    const plx_session_row *rows;
    float *logits, *all_logits;
} step_pass;

/* Logits [count, vocab] of hidden states, brought to the host as float. */
static plx_status put_logits(plx_run *run, plx_model *model, const void *hidden, size_t count, float *logits)
{
    size_t vocab = model->config.vocab_size, mark = plx_mark(run);
    double *wide = run->session->wide;
    void *on_device;
    PLX_TRY(plx_scratch(run, count * vocab, &on_device));
    PLX_TRY(plx_model_head(run, model, hidden, count, on_device));
    if (run->type == PLX_F32) plx_run_download(run, logits, on_device, count * vocab * sizeof *logits);
    for (size_t i = 0; i < count && run->type == PLX_F64 && !run->dry; i++) {
        plx_run_download(run, wide, plx_at(run, on_device, i * vocab), vocab * sizeof *wide);
        for (size_t v = 0; v < vocab; v++) logits[i * vocab + v] = (float)wide[v];
    }
    plx_release(run, mark);
    return PLX_OK;
}

/* The step, as an arena runs it: first dry, then for real. */
static plx_status pass_step(plx_run *run, plx_model *model, void *user)
{
    const step_pass *pass = user;
    size_t width = model->config.hidden_size;
    void *hidden, *last;
    PLX_TRY(plx_model_forward(run, model, &hidden));
    if (!pass->logits && !run->dry) return PLX_OK;
    PLX_TRY(plx_scratch(run, run->rows * width, &last));
    plx_gather_args gather = {
        .type = run->type, .index = run->session->at.last, .count = run->rows, .width = width, .x = hidden, .y = last};
    PLX_TRY(plx_run_op(run, &plx_op_gather, &gather));
    return put_logits(run, model, last, run->rows, pass->logits);
}

static plx_status pass_step_all(plx_run *run, plx_model *model, void *user)
{
    const step_pass *pass = user;
    size_t width = model->config.hidden_size, vocab = model->config.vocab_size;
    void *hidden;
    PLX_TRY(plx_model_forward(run, model, &hidden));
    if (run->dry) return put_logits(run, model, hidden, run->length, NULL);
    for (size_t b = 0; b < run->rows; b++) {
        size_t count = pass->rows[b].count;
        float *row = pass->all_logits + b * run->length * vocab;
        PLX_TRY(put_logits(run, model, plx_at(run, hidden, b * run->length * width), count, row));
        memset(row + count * vocab, 0, (run->length - count) * vocab * sizeof *row);
        if (pass->logits) memcpy(pass->logits + b * vocab, row + (count - 1) * vocab, vocab * sizeof *row);
    }
    return PLX_OK;
}

static plx_status make_session(plx_session *session)
{
    plx_context *context = session->context;
    if (session->capacity > INT32_MAX / 2 || session->chunk > INT32_MAX / 2)
        return plx_fail(context, PLX_ERROR_VALUE, "a session's capacity and chunk are at most %d tokens",
                        INT32_MAX / 2);
    if (session->slots > INT32_MAX / 2)
        return plx_fail(context, PLX_ERROR_VALUE, "a session has at most %d slots", INT32_MAX / 2);
    PLX_TRY(plx_state_create(session));
    size_t tokens, numbers;
    if (!plx_multiply_sizes(session->slots, session->chunk, &tokens) || tokens > INT32_MAX ||
        !plx_multiply_sizes(session->slots, 2 + 3 * session->part_count, &numbers))
        return plx_fail(context, PLX_ERROR_VALUE, "a session of %zu slots and chunks of %zu tokens is too large",
                        session->slots, session->chunk);
    session->inputs = plx_alloc_array(context, tokens, sizeof *session->inputs);
    session->start = plx_alloc_array(context, tokens, sizeof *session->start);
    session->past = plx_alloc_array(context, session->slots, sizeof *session->past);
    session->host = plx_alloc_array(context, numbers, sizeof *session->host);
    if (session->model->type == PLX_F64)
        session->wide = plx_alloc_array(context, session->model->config.vocab_size, sizeof *session->wide);
    if (!session->inputs || !session->start || !session->past || !session->host ||
        (session->model->type == PLX_F64 && !session->wide))
        return PLX_ERROR_MEMORY;
    PLX_TRY(plx_device_alloc(context, numbers * sizeof *session->host, &session->device));
    session->at = lay_out(session->device, session->slots, session->part_count);
    /* Memory for the steps that are usual; a larger one takes more when it comes. */
    step_pass pass = {0};
    size_t shared = tokens <= STEP_USUAL ? session->chunk : STEP_USUAL / session->slots;
    if (session->slots > 1)
        PLX_TRY(plx_arena_reserve(&session->arena, session->slots, shared > 0 ? shared : 1, 0, session, pass_step,
                                  &pass));
    return plx_arena_reserve(&session->arena, 1, session->chunk, 0, session, pass_step, &pass);
}

plx_status plx_session_create(plx_model *model, const plx_session_options *options, plx_session **session)
{
    plx_context *context = model->context;
    plx_session_options given = options ? *options : (plx_session_options){0};
    *session = NULL;
    if ((unsigned)given.state > PLX_STATE_Q8)
        return plx_fail(context, PLX_ERROR_VALUE, "%d is no plx_state_form", (int)given.state);
    plx_session *made = plx_alloc(context, sizeof *made);
    if (!made) return PLX_ERROR_MEMORY;
    made->context = context;
    made->model = model;
    made->slots = given.slots ? given.slots : 1;
    made->capacity = given.capacity ? given.capacity : model->config.max_position_embeddings;
    made->chunk = given.chunk ? given.chunk : 64;
    if (made->chunk > made->capacity) made->chunk = made->capacity;
    made->form = given.state;
    made->rollback = given.rollback ? given.rollback : 64;
    plx_arena_init(&made->arena, model);
    plx_status status = make_session(made);
    if (status == PLX_OK)
        *session = made;
    else
        plx_session_free(made);
    return status;
}

void plx_session_free(plx_session *session)
{
    if (!session) return;
    plx_context *context = session->context;
    plx_state_free(session);
    plx_arena_release(&session->arena);
    plx_free(context, session->inputs);
    plx_free(context, session->start);
    plx_free(context, session->past);
    plx_free(context, session->host);
    plx_free(context, session->wide);
    if (session->device) plx_device_free(context, session->device);
    plx_free(context, session);
}

static plx_status check_row(const plx_session *session, const plx_session_row *rows, size_t b)
{
    const plx_session_row *row = &rows[b];
    plx_context *context = session->context;
    if (row->slot >= session->slots)
        return plx_fail(context, PLX_ERROR_VALUE, "row %zu names slot %zu of a session with %zu slots", b, row->slot,
                        session->slots);
    for (size_t other = 0; other < b; other++)
        if (rows[other].slot == row->slot)
            return plx_fail(context, PLX_ERROR_VALUE, "rows %zu and %zu of a step both name slot %zu", other, b,
                            row->slot);
    if (row->count < 1 || row->count > session->chunk)
        return plx_fail(context, PLX_ERROR_VALUE,
                        "row %zu has %zu tokens; a step takes 1 to %zu of each slot (option chunk)", b, row->count,
                        session->chunk);
    size_t length = session->slot[row->slot].length;
    if (row->count > session->capacity - length)
        return plx_fail(context, PLX_ERROR_VALUE,
                        "slot %zu holds %zu tokens and %zu more would pass its capacity of %zu", row->slot, length,
                        row->count, session->capacity);
    for (size_t t = 0; t < row->count; t++)
        if (row->tokens[t] < 0 || (size_t)row->tokens[t] >= session->model->config.vocab_size)
            return plx_fail(context, PLX_ERROR_VALUE, "row %zu: token id %d is not within the vocabulary of %zu", b,
                            row->tokens[t], session->model->config.vocab_size);
    return PLX_OK;
}

/* The step's batch and staging; documents that begin in it are noted in the slots only once it is done. */
static void stage(plx_session *session, const plx_session_row *rows, size_t count, size_t length,
                  const plx_session_staging *host)
{
    for (size_t b = 0; b < count; b++) {
        const plx_session_row *row = &rows[b];
        const plx_slot *slot = &session->slot[row->slot];
        int32_t start = slot->length > 0 ? plx_state_document(slot, slot->length) : 0;
        host->slot[b] = (int32_t)row->slot;
        session->past[b] = (int32_t)slot->length;
        host->last[b] = (int32_t)(b * length + row->count - 1);
        for (size_t t = 0; t < length; t++) {
            bool padding = t >= row->count; /* its own document, so that nothing is looked back at */
            if (padding || (row->new_document && row->new_document[t])) start = (int32_t)(slot->length + t);
            session->inputs[b * length + t] = padding ? 0 : row->tokens[t];
            session->start[b * length + t] = start;
        }
    }
}

static bool begins_document(const plx_session_row *row, const plx_slot *slot, size_t t)
{
    return slot->length + t == 0 || (row->new_document && row->new_document[t]);
}

static plx_status reserve_documents(plx_session *session, const plx_session_row *row)
{
    size_t more = 0;
    for (size_t t = 0; t < row->count; t++) more += begins_document(row, &session->slot[row->slot], t);
    return plx_state_reserve_documents(session, row->slot, more);
}

/* The step is done: its tokens count from here on. */
static void advance(plx_session *session, const plx_session_row *row)
{
    plx_slot *slot = &session->slot[row->slot];
    for (size_t t = 0; t < row->count; t++)
        if (begins_document(row, slot, t)) slot->starts[slot->start_count++] = (int32_t)(slot->length + t);
    slot->length += row->count;
}

plx_status plx_session_step(plx_session *session, const plx_session_row *rows, size_t count, float *logits,
                            float *all_logits)
{
    plx_context *context = session->context;
    size_t length = 0;
    if (count < 1 || count > session->slots)
        return plx_fail(context, PLX_ERROR_VALUE, "a step of %zu rows in a session with %zu slots", count,
                        session->slots);
    for (size_t b = 0; b < count; b++) {
        PLX_TRY(check_row(session, rows, b));
        PLX_TRY(reserve_documents(session, &rows[b]));
        if (rows[b].count > length) length = rows[b].count;
    }
    plx_session_staging host = lay_out(session->host, count, session->part_count);
    session->at = lay_out(session->device, count, session->part_count);
    plx_pass run = all_logits ? pass_step_all : pass_step;
    step_pass pass = {rows, logits, all_logits};
    PLX_TRY(plx_arena_reserve(&session->arena, count, length, 0, session, run, &pass));
    stage(session, rows, count, length, &host);
    plx_state_plan_room(session, &host, count, length);
    plx_device_upload(context, session->device, session->host,
                      count * (2 + 3 * session->part_count) * sizeof *session->host);
    PLX_TRY(plx_state_make_room(session, &host, &session->at, count));
    plx_batch batch = {.rows = count, .length = length, .inputs = session->inputs, .start = session->start};
    PLX_TRY(plx_arena_run(&session->arena, &batch, session->past, session, 0, 0, 0, run, &pass));
    for (size_t b = 0; b < count; b++) advance(session, &rows[b]);
    return PLX_OK;
}
