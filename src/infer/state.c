/* state.c - the parts of a session's state and what can be done to a slot: append, fork, cut, save, restore. */
#include "infer/state.h"
#include "kernels/history.h"

#include <string.h>

/* ---- memory ---- */

/* Bounded parts: what a query needs, what rollback promises, and room for a step. The others hold the whole
 * sequence, and a padded row may write one chunk beyond it. */
static bool part_capacity(const plx_session *session, size_t keep, size_t *capacity)
{
    size_t whole, bounded;
    if (!plx_add_sizes(session->capacity, session->chunk, &whole)) return false;
    *capacity = whole;
    if (keep == 0) return true;
    if (!plx_add_sizes(keep, session->rollback, &bounded) || !plx_add_sizes(bounded, session->chunk, &bounded))
        return true;
    if (bounded < whole) *capacity = bounded;
    return true;
}

static plx_status add_parts(plx_session *session, size_t layer)
{
    const plx_layer *from = &session->model->config.layers[layer];
    plx_state_part list[PLX_STATE_PARTS_MAX];
    size_t count = from->mixer->state(from->own, list), before = session->part_count;
    plx_part *parts = plx_grow(session->context, session->parts, before * sizeof *parts,
                               (before + count) * sizeof *parts);
    if (!parts && before + count > 0) return PLX_ERROR_MEMORY;
    session->parts = parts;
    for (size_t i = 0; i < count; i++) {
        plx_part *part = &parts[before + i];
        *part = (plx_part){.width = list[i].width, .keep = list[i].keep};
        part->form = list[i].packable ? session->form : PLX_STATE_WHOLE;
        part->token_bytes = plx_history_token_bytes(part->form, session->model->type, part->width);
        session->part_count++;
        part->base = plx_alloc_array(session->context, session->slots, sizeof *part->base);
        if (!part->base) return PLX_ERROR_MEMORY;
    }
    session->first_part[layer + 1] = session->part_count;
    return PLX_OK;
}

static size_t align64(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Bytes of a part for all slots; false on overflow. */
static bool part_bytes(const plx_session *session, const plx_part *part, size_t *bytes)
{
    size_t row;
    return plx_multiply_sizes(part->capacity, part->token_bytes, &row) &&
           plx_multiply_sizes(row, session->slots, bytes) && *bytes < SIZE_MAX - 64;
}

plx_status plx_state_create(plx_session *session)
{
    plx_context *context = session->context;
    size_t layers = session->model->config.layer_count, total = 0;
    session->first_part = plx_alloc_array(context, layers + 1, sizeof *session->first_part);
    session->slot = plx_alloc_array(context, session->slots, sizeof *session->slot);
    if (!session->first_part || !session->slot) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < layers; i++) PLX_TRY(add_parts(session, i));
    for (size_t i = 0; i < session->part_count; i++) {
        plx_part *part = &session->parts[i];
        size_t bytes;
        if (!part_capacity(session, part->keep, &part->capacity) || !part_bytes(session, part, &bytes) ||
            !plx_add_sizes(total, align64(bytes), &total))
            return plx_fail(context, PLX_ERROR_MEMORY, "a state of %zu slots of %zu tokens is larger than any memory",
                            session->slots, session->capacity);
    }
    size_t available = plx_available_memory();
    if (total > available)
        return plx_fail(context, PLX_ERROR_MEMORY,
                        "the state of %zu slots of %zu tokens takes %.1f MB, but only %.1f MB are free", session->slots,
                        session->capacity, (double)total * 1e-6, (double)available * 1e-6);
    if (total == 0) return PLX_OK;
    PLX_TRY(plx_device_alloc_sparse(context, total, &session->state));
    if (context->poison) plx_device_fill(context, session->state, 0xFF, total);
    char *next = session->state;
    for (size_t i = 0; i < session->part_count; i++) {
        size_t bytes = 0;
        session->parts[i].data = next;
        part_bytes(session, &session->parts[i], &bytes);
        next += align64(bytes);
    }
    return PLX_OK;
}

void plx_state_free(plx_session *session)
{
    plx_context *context = session->context;
    for (size_t i = 0; i < session->part_count; i++) plx_free(context, session->parts[i].base);
    for (size_t i = 0; session->slot && i < session->slots; i++) plx_free(context, session->slot[i].starts);
    plx_free(context, session->parts);
    plx_free(context, session->first_part);
    plx_free(context, session->slot);
    if (session->state) plx_device_free(context, session->state);
}

size_t plx_session_state_bytes(const plx_session *session)
{
    size_t bytes = 0;
    for (size_t i = 0; i < session->part_count; i++)
        bytes += session->parts[i].capacity * session->parts[i].token_bytes;
    return bytes;
}

size_t plx_session_length(const plx_session *session, size_t slot)
{
    return slot < session->slots ? session->slot[slot].length : 0;
}

/* ---- documents of a slot ---- */

int32_t plx_state_document(const plx_slot *slot, size_t index)
{
    size_t low = 0, high = slot->start_count; /* starts before low are <= index, those from high on are > index */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((size_t)slot->starts[middle] <= index)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 ? slot->starts[low - 1] : -1;
}

/* Drops the documents that end before every token a cut could go back to. */
static void forget_documents(plx_session *session, size_t slot)
{
    plx_slot *at = &session->slot[slot];
    size_t reach = at->length > session->rollback ? at->length - session->rollback : 0, dropped = 0;
    for (size_t i = 0; i < session->part_count; i++)
        if ((size_t)session->parts[i].base[slot] < reach) reach = (size_t)session->parts[i].base[slot];
    while (dropped + 1 < at->start_count && (size_t)at->starts[dropped + 1] < reach) dropped++;
    if (dropped == 0) return;
    at->start_count -= dropped;
    memmove(at->starts, at->starts + dropped, at->start_count * sizeof *at->starts);
}

static plx_status reserve_documents(plx_session *session, plx_slot *at, size_t count)
{
    if (count <= at->start_room) return PLX_OK;
    size_t room = count < 16 ? 16 : count + count / 2;
    int32_t *starts = plx_grow(session->context, at->starts, at->start_room * sizeof *starts, room * sizeof *starts);
    if (!starts) return PLX_ERROR_MEMORY;
    at->starts = starts;
    at->start_room = room;
    return PLX_OK;
}

plx_status plx_state_reserve_documents(plx_session *session, size_t slot, size_t more)
{
    plx_slot *at = &session->slot[slot];
    if (at->start_count + more > at->start_room) forget_documents(session, slot);
    return reserve_documents(session, at, at->start_count + more);
}

/* ---- room and append ---- */

static plx_history part_history(const plx_session *session, size_t part, const plx_session_staging *device,
                                const int32_t *base)
{
    const plx_part *at = &session->parts[part];
    return (plx_history){.data = at->data,
                         .width = at->width,
                         .row_stride = at->capacity * at->width,
                         .slot = device->slot,
                         .base = base,
                         .form = at->form};
}

void plx_state_plan_room(plx_session *session, const plx_session_staging *host, size_t rows, size_t length)
{
    for (size_t p = 0; p < session->part_count; p++) {
        const plx_part *part = &session->parts[p];
        for (size_t b = 0; b < rows; b++) {
            size_t slot = (size_t)host->slot[b], at = p * rows + b;
            size_t held = session->slot[slot].length - (size_t)part->base[slot],
                   wanted = part->keep + session->rollback;
            bool full = held + length > part->capacity;
            size_t kept = held < wanted ? held
                                        : wanted; /* full: the part is bounded, so that this leaves room for a chunk */
            host->from[at] = full ? (int32_t)(held - kept) : 0;
            host->count[at] = full && held > kept ? (int32_t)kept : 0;
            host->base[at] = part->base[slot] + host->from[at];
        }
    }
}

plx_status plx_state_make_room(plx_session *session, const plx_session_staging *host, const plx_session_staging *device,
                               size_t rows)
{
    for (size_t p = 0; p < session->part_count; p++) {
        bool any = false;
        for (size_t b = 0; b < rows; b++) any = any || host->from[p * rows + b] > 0;
        if (!any) continue;
        /* Indices are the row's own here, so base is left out. */
        plx_move_args move = {.type = session->model->type,
                              .history = part_history(session, p, device, NULL),
                              .rows = rows,
                              .from = device->from + p * rows,
                              .count = device->count + p * rows};
        PLX_TRY(plx_op_run(session->context, &plx_op_move, &move));
        for (size_t b = 0; b < rows; b++) session->parts[p].base[host->slot[b]] = host->base[p * rows + b];
    }
    return PLX_OK;
}

plx_status plx_state_append(plx_run *run, size_t part, const void *x, plx_history *history)
{
    const plx_session *session = run->session;
    size_t index = session->first_part[run->layer] + part;
    if (index >= session->first_part[run->layer + 1])
        return plx_fail(run->context, PLX_ERROR_INTERNAL,
                        "layer %zu appends to a part %zu of its state that it did not declare", run->layer, part);
    *history = part_history(session, index, &session->at, session->at.base + index * run->rows);
    plx_append_args append = {.type = run->type, .sequence = plx_run_sequence(run), .history = *history, .x = x};
    return plx_run_op(run, &plx_op_append, &append);
}

/* ---- slots ---- */

static plx_status check_slot(const plx_session *session, size_t slot)
{
    if (slot < session->slots) return PLX_OK;
    return plx_fail(session->context, PLX_ERROR_VALUE, "slot %zu of a session with %zu slots", slot, session->slots);
}

/* The place of a slot's tokens in a part, and how many bytes they are. */
static char *part_row(const plx_session *session, const plx_part *part, size_t slot, size_t *bytes)
{
    *bytes = (session->slot[slot].length - (size_t)part->base[slot]) * part->token_bytes;
    return (char *)part->data + slot * part->capacity * part->token_bytes;
}

plx_status plx_session_reset(plx_session *session, size_t slot)
{
    PLX_TRY(check_slot(session, slot));
    session->slot[slot].length = 0;
    session->slot[slot].start_count = 0;
    for (size_t i = 0; i < session->part_count; i++) session->parts[i].base[slot] = 0;
    return PLX_OK;
}

plx_status plx_session_fork(plx_session *session, size_t from, size_t to)
{
    PLX_TRY(check_slot(session, from));
    PLX_TRY(check_slot(session, to));
    if (from == to) return PLX_OK;
    plx_slot *source = &session->slot[from], *target = &session->slot[to];
    PLX_TRY(reserve_documents(session, target, source->start_count));
    if (source->start_count) memcpy(target->starts, source->starts, source->start_count * sizeof *target->starts);
    target->start_count = source->start_count;
    target->length = source->length;
    for (size_t i = 0; i < session->part_count; i++) {
        plx_part *part = &session->parts[i];
        size_t bytes;
        part->base[to] = part->base[from];
        const char *row = part_row(session, part, from, &bytes);
        if (bytes) plx_device_copy(session->context, part_row(session, part, to, &bytes), row, bytes);
    }
    return PLX_OK;
}

/* Whether a part that holds tokens from `base` on has all that a next token at `length` may need. */
static bool part_suffices(const plx_part *part, int32_t base, int32_t start, size_t length)
{
    size_t needed = (size_t)start;
    if (part->keep > 0 && length > part->keep && length - part->keep > needed) needed = length - part->keep;
    return (size_t)base <= needed;
}

plx_status plx_session_cut(plx_session *session, size_t slot, size_t length)
{
    PLX_TRY(check_slot(session, slot));
    plx_slot *at = &session->slot[slot];
    if (length > at->length)
        return plx_fail(session->context, PLX_ERROR_VALUE, "cannot cut slot %zu to %zu tokens: it holds %zu", slot,
                        length, at->length);
    if (length == at->length) return PLX_OK;
    if (length == 0) return plx_session_reset(session, slot);
    int32_t start = plx_state_document(at, length - 1);
    bool possible = start >= 0;
    for (size_t i = 0; i < session->part_count && possible; i++)
        possible = part_suffices(&session->parts[i], session->parts[i].base[slot], start, length);
    if (!possible)
        return plx_fail(session->context, PLX_ERROR_VALUE,
                        "cannot cut slot %zu from %zu to %zu tokens: a bounded layer has dropped what that needs; ask "
                        "for more rollback (now %zu)",
                        slot, at->length, length, session->rollback);
    while (at->start_count > 0 && (size_t)at->starts[at->start_count - 1] >= length) at->start_count--;
    at->length = length;
    return PLX_OK;
}

/* ---- save and restore ----
 * header, starts [start_count] int32, base [part_count] int32, then each part's tokens base .. length-1. */

typedef struct state_header {
    char magic[8];
    uint64_t parts_hash, type, length, start_count, part_count;
} state_header;

static const char state_magic[8] = "PLXSTAT1";

/* A number that tells states of different models apart. */
static uint64_t hash_parts(const plx_session *session)
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < session->part_count; i++) {
        hash = (hash ^ session->parts[i].width) * 1099511628211u;
        hash = (hash ^ session->parts[i].keep) * 1099511628211u;
        hash = (hash ^ (uint64_t)session->parts[i].form) * 1099511628211u;
    }
    return hash;
}

plx_status plx_session_save(plx_session *session, size_t slot, void **state, size_t *bytes)
{
    PLX_TRY(check_slot(session, slot));
    const plx_slot *at = &session->slot[slot];
    state_header header = {.parts_hash = hash_parts(session),
                           .type = session->model->type,
                           .length = at->length,
                           .start_count = at->start_count,
                           .part_count = session->part_count};
    memcpy(header.magic, state_magic, sizeof header.magic);
    size_t total = sizeof header + (at->start_count + session->part_count) * sizeof(int32_t), part;
    for (size_t i = 0; i < session->part_count; i++) {
        part_row(session, &session->parts[i], slot, &part);
        total += part;
    }
    char *out = plx_alloc(session->context, total), *next = out;
    if (!out) return PLX_ERROR_MEMORY;
    memcpy(next, &header, sizeof header);
    next += sizeof header;
    if (at->start_count) memcpy(next, at->starts, at->start_count * sizeof(int32_t));
    next += at->start_count * sizeof(int32_t);
    for (size_t i = 0; i < session->part_count; i++, next += sizeof(int32_t))
        memcpy(next, &session->parts[i].base[slot], sizeof(int32_t));
    for (size_t i = 0; i < session->part_count; i++) {
        const char *row = part_row(session, &session->parts[i], slot, &part);
        if (part) plx_device_download(session->context, next, row, part);
        next += part;
    }
    *state = out;
    *bytes = total;
    return PLX_OK;
}

/* Takes `bytes` of the state that are left; NULL when there are not so many. */
static const void *take(const char **next, size_t *left, size_t bytes)
{
    const char *here = *next;
    if (bytes > *left) return NULL;
    *next += bytes;
    *left -= bytes;
    return here;
}

/* Checks everything before anything is changed: a state may come from a file. */
static bool state_fits(const plx_session *session, const state_header *header, const int32_t *starts,
                       const int32_t *bases, size_t left)
{
    int32_t start = 0;
    for (size_t i = 0; i < header->start_count; i++) {
        if (starts[i] < 0 || (size_t)starts[i] >= header->length || (i > 0 && starts[i] <= start)) return false;
        start = starts[i];
    }
    for (size_t i = 0; i < session->part_count; i++) {
        const plx_part *part = &session->parts[i];
        if (bases[i] < 0 || (size_t)bases[i] > header->length || !part_suffices(part, bases[i], start, header->length))
            return false;
        size_t held = header->length - (size_t)bases[i];
        if (held > part->capacity || held * part->token_bytes > left) return false;
        left -= held * part->token_bytes;
    }
    return left == 0;
}

plx_status plx_session_restore(plx_session *session, size_t slot, const void *state, size_t bytes)
{
    PLX_TRY(check_slot(session, slot));
    plx_context *context = session->context;
    const char *next = state;
    size_t left = bytes;
    state_header header;
    const void *head = take(&next, &left, sizeof header);
    if (head) memcpy(&header, head, sizeof header);
    if (!head || memcmp(header.magic, state_magic, sizeof header.magic) != 0)
        return plx_fail(context, PLX_ERROR_FORMAT, "this is no saved session state");
    if (header.parts_hash != hash_parts(session) || header.type != session->model->type ||
        header.part_count != session->part_count)
        return plx_fail(context, PLX_ERROR_VALUE, "the saved state belongs to a model of another shape, or is kept in another form");
    if (header.length > session->capacity)
        return plx_fail(context, PLX_ERROR_VALUE,
                        "the saved state has %zu tokens, but a slot of this session holds %zu", (size_t)header.length,
                        session->capacity);
    if (header.start_count > header.length || (header.length > 0 && header.start_count == 0))
        return plx_fail(context, PLX_ERROR_FORMAT, "the saved state is damaged");
    const void *starts_from = take(&next, &left, header.start_count * sizeof(int32_t));
    const void *bases_from = starts_from ? take(&next, &left, session->part_count * sizeof(int32_t)) : NULL;
    if (!bases_from) return plx_fail(context, PLX_ERROR_FORMAT, "the saved state is cut short");
    /* Copied, because the caller's bytes may lie at any address. */
    size_t numbers = header.start_count + session->part_count;
    int32_t *copy = plx_alloc_array(context, numbers + 1, sizeof *copy);
    if (!copy) return PLX_ERROR_MEMORY;
    memcpy(copy, starts_from, numbers * sizeof *copy);
    const int32_t *bases = copy + header.start_count;
    plx_slot *at = &session->slot[slot];
    plx_status status = PLX_OK;
    if (!state_fits(session, &header, copy, bases, left))
        status = plx_fail(context, PLX_ERROR_FORMAT, "the saved state is damaged, or of a session with other options");
    if (status == PLX_OK) status = reserve_documents(session, at, header.start_count);
    if (status == PLX_OK) {
        if (header.start_count) memcpy(at->starts, copy, header.start_count * sizeof *copy);
        at->start_count = header.start_count;
        at->length = header.length;
        for (size_t i = 0; i < session->part_count; i++) {
            size_t part;
            session->parts[i].base[slot] = bases[i];
            char *row = part_row(session, &session->parts[i], slot, &part);
            if (part) plx_device_upload(context, row, next, part);
            next += part;
        }
    }
    plx_free(context, copy);
    return status;
}

void plx_session_state_free(plx_session *session, void *state)
{
    plx_free(session->context, state);
}
