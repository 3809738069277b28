/* split.c - the steps of a pre_tokenizer: from a text to its words. */
#include "text/pretrained.h"

static plx_status add_span(plx_context *context, plx_spans *spans, size_t begin, size_t end)
{
    if (spans->count == spans->capacity) {
        size_t capacity = spans->capacity * 2 + 1024;
        plx_span *items = plx_grow(context, spans->items, spans->capacity * sizeof *items, capacity * sizeof *items);
        if (items == NULL) return PLX_ERROR_MEMORY;
        spans->items = items;
        spans->capacity = capacity;
    }
    if (begin < end) spans->items[spans->count++] = (plx_span){(uint32_t)begin, (uint32_t)end};
    return PLX_OK;
}

/* Takes the parts of a span from left to right, matches and what lies between, and makes of them what the behaviour
 * says. A part is held back while the next may be joined to it. */
typedef struct splitting {
    plx_context *context;
    plx_spans *to;
    plx_split_behavior behavior;
    bool held, held_match;
    size_t begin, end; /* the part held back */
} splitting;

static plx_status flush(splitting *state)
{
    if (!state->held) return PLX_OK;
    state->held = false;
    return add_span(state->context, state->to, state->begin, state->end);
}

static plx_status take(splitting *state, size_t begin, size_t end, bool match)
{
    bool join = false;
    switch (state->behavior) {
    case PLX_SPLIT_ISOLATED: return add_span(state->context, state->to, begin, end);
    case PLX_SPLIT_REMOVED: return match ? PLX_OK : add_span(state->context, state->to, begin, end);
    case PLX_SPLIT_CONTIGUOUS: join = state->held && state->held_match == match; break;
    case PLX_SPLIT_MERGED_WITH_PREVIOUS: join = state->held && match && !state->held_match; break;
    case PLX_SPLIT_MERGED_WITH_NEXT: join = state->held && !match && state->held_match; break;
    }
    if (!join) {
        PLX_TRY(flush(state));
        state->begin = begin;
    }
    state->held = true;
    state->held_match = match;
    state->end = end;
    return PLX_OK;
}

static plx_status split_by_pattern(const plx_splitter *step, const char *text, plx_span span, splitting *state)
{
    const char *part = text + span.begin;
    size_t count = span.end - span.begin, done = 0, begin, end;
    for (size_t from = 0; from <= count;) {
        bool found;
        PLX_TRY(plx_regex_find(step->pattern, part, count, from, &found, &begin, &end));
        if (!found) break;
        if (done < begin) PLX_TRY(take(state, span.begin + done, span.begin + begin, step->invert));
        if (begin < end || state->behavior != PLX_SPLIT_REMOVED)
            PLX_TRY(take(state, span.begin + begin, span.begin + end, !step->invert));
        done = from = end;
        if (begin == end) { /* an empty match parts the text, too */
            int next = 1;
            if (end < count) plx_char_at(part + end, &next);
            from = end + (size_t)next;
        }
    }
    return done < count ? take(state, span.begin + done, span.end, step->invert) : PLX_OK;
}

static plx_status split_by_chars(const plx_splitter *step, const char *text, plx_span span, splitting *state)
{
    size_t done = span.begin;
    for (size_t i = span.begin; i < span.end;) {
        int size;
        uint32_t c = plx_char_at(text + i, &size);
        bool match = step->is != NULL ? step->is(c) : c == step->character;
        size_t next = i + (size_t)size;
        if (match) {
            if (done < i) PLX_TRY(take(state, done, i, false));
            PLX_TRY(take(state, i, next, true));
            done = next;
        }
        i = next;
    }
    return done < span.end ? take(state, done, span.end, false) : PLX_OK;
}

/* Splits every span of `from` into `to`. */
static plx_status split_spans(plx_context *context, const plx_splitter *step, const char *text, const plx_spans *from,
                              plx_spans *to)
{
    splitting state = {.context = context, .to = to, .behavior = step->behavior};
    for (size_t i = 0; i < from->count; i++) {
        if (step->kind == PLX_SPLIT_PATTERN)
            PLX_TRY(split_by_pattern(step, text, from->items[i], &state));
        else
            PLX_TRY(split_by_chars(step, text, from->items[i], &state));
        PLX_TRY(flush(&state));
    }
    return PLX_OK;
}

/* Writes every span anew: PREFIX_SPACE puts a space before those without one; METASPACE puts its character for each
 * space and before a span that does not begin with it. */
static plx_status rewrite(plx_context *context, const plx_splitter *step, const char *text, bool first,
                          const plx_spans *from, plx_text_buffer *buffer, plx_spans *to)
{
    bool meta = step->kind == PLX_SPLIT_METASPACE;
    char mark[4];
    size_t mark_size = meta ? plx_char_put(mark, step->character) : 0;
    buffer->count = 0;
    for (size_t i = 0; i < from->count; i++) {
        const char *part = text + from->items[i].begin;
        size_t count = from->items[i].end - from->items[i].begin, begin = buffer->count;
        PLX_TRY(plx_text_reserve(context, buffer, (count + 1) * (mark_size + 1)));
        bool marked = part[0] == ' ' || (meta && count >= mark_size && memcmp(part, mark, mark_size) == 0);
        if (!meta && !marked) buffer->bytes[buffer->count++] = ' ';
        bool prepend = step->prepend == PLX_PREPEND_ALWAYS || (step->prepend == PLX_PREPEND_FIRST && first && i == 0);
        if (meta && !marked && prepend) {
            memcpy(buffer->bytes + buffer->count, mark, mark_size);
            buffer->count += mark_size;
        }
        for (size_t j = 0; j < count; j++) {
            if (!meta || part[j] != ' ') {
                buffer->bytes[buffer->count++] = part[j];
                continue;
            }
            memcpy(buffer->bytes + buffer->count, mark, mark_size);
            buffer->count += mark_size;
        }
        PLX_TRY(add_span(context, to, begin, buffer->count));
    }
    return PLX_OK;
}

static void swap(plx_spans *a, plx_spans *b)
{
    plx_spans kept = *a;
    *a = *b;
    *b = kept;
}

plx_status plx_split(plx_context *context, const plx_splitter *steps, size_t count, plx_text text, bool first,
                     plx_text_buffer buffers[2], plx_spans lists[2], plx_text *result)
{
    unsigned buffer = 0;
    lists[0].count = 0;
    PLX_TRY(add_span(context, &lists[0], 0, text.count));
    for (size_t i = 0; i < count; i++) {
        const plx_splitter *step = &steps[i];
        if (step->kind == PLX_SPLIT_PREFIX_SPACE || step->kind == PLX_SPLIT_METASPACE) {
            lists[1].count = 0;
            PLX_TRY(rewrite(context, step, text.bytes, first, &lists[0], &buffers[buffer], &lists[1]));
            text = (plx_text){buffers[buffer].bytes, buffers[buffer].count};
            buffer ^= 1;
            swap(&lists[0], &lists[1]);
            if (step->kind == PLX_SPLIT_PREFIX_SPACE || !step->split) continue;
        }
        lists[1].count = 0;
        PLX_TRY(split_spans(context, step, text.bytes, &lists[0], &lists[1]));
        swap(&lists[0], &lists[1]);
    }
    *result = text;
    return PLX_OK;
}
