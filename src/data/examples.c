/* examples.c - see examples.h. */
#include "data/examples.h"

#include "core/random.h"
#include "io/files.h"
#include "io/text_reader.h"

#include <inttypes.h>
#include <string.h>

static const size_t LIST_MOST = (size_t)1 << 40; /* bytes of a .json file: what memory holds is less */

struct plx_examples {
    plx_context *context;
    plx_examples_options options;
    int32_t *tokens;
    uint8_t *answer;
    size_t used, room; /* of both */
    size_t *begin;     /* [count + 1]: where examples begin in tokens */
    size_t count, count_room;
    size_t cut, dropped;
    char *files; /* for messages */
};

struct plx_example_rows {
    const plx_examples *examples;
    uint32_t *order; /* examples as packed */
    uint32_t *begin; /* [count + 1]: index into order */
    size_t count;
};

typedef struct reading {
    plx_examples *made;
    plx_chat chat;
    const char *path;
    uint64_t place; /* line, or number of the record */
    bool lines;
} reading;

void plx_examples_free(plx_examples *examples)
{
    if (examples == NULL) return;
    plx_context *context = examples->context;
    plx_free(context, examples->tokens);
    plx_free(context, examples->answer);
    plx_free(context, examples->begin);
    plx_free(context, examples->files);
    plx_free(context, examples);
}

static plx_status grow(plx_examples *made, size_t more)
{
    plx_context *context = made->context;
    if (made->count + 2 > made->count_room) {
        size_t room = 2 * made->count_room + 1024;
        size_t *begin = plx_grow(context, made->begin, made->count_room * sizeof *begin, room * sizeof *begin);
        if (begin == NULL) return PLX_ERROR_MEMORY;
        made->begin = begin;
        made->count_room = room;
    }
    if (more <= made->room - made->used) return PLX_OK;
    size_t room = 2 * (made->used + more);
    int32_t *tokens = plx_grow(context, made->tokens, made->room * sizeof *tokens, room * sizeof *tokens);
    if (tokens == NULL) return PLX_ERROR_MEMORY;
    made->tokens = tokens;
    uint8_t *answer = plx_grow(context, made->answer, made->room, room);
    if (answer == NULL) return PLX_ERROR_MEMORY;
    made->answer = answer;
    made->room = room;
    return PLX_OK;
}

/* ---- one record ---- */

static plx_status fail_record(const reading *now, const char *what)
{
    return plx_fail(now->made->context, PLX_ERROR_FORMAT, "%s%s%" PRIu64 ": %s", now->path,
                    now->lines ? ":" : ": record ", now->place, what);
}

/* The first of the keys that holds a string; NULL when none does. */
static const json_t *text_of(const json_t *record, const char *key, const char *other)
{
    const json_t *text = json_object_get(record, key);
    if (!json_is_string(text) && other != NULL) text = json_object_get(record, other);
    return json_is_string(text) ? text : NULL;
}

static plx_status add_message(reading *now, plx_chat_role role, const json_t *text)
{
    plx_chat_message message = {role, json_string_value(text), json_string_length(text)};
    return plx_chat_add(&now->chat, &message);
}

static plx_status add_system(reading *now)
{
    const char *system = now->made->options.system;
    if (system == NULL) return PLX_OK;
    plx_chat_message message = {PLX_CHAT_SYSTEM, system, strlen(system)};
    return plx_chat_add(&now->chat, &message);
}

static plx_status add_messages(reading *now, const json_t *list)
{
    bool answered = false;
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item)
    {
        const json_t *name = text_of(item, "role", "from"), *text = text_of(item, "content", "value");
        plx_chat_role role;
        if (name == NULL || text == NULL)
            return fail_record(now, "each message needs \"role\" and \"content\", both texts");
        if (!plx_chat_role_of(json_string_value(name), &role))
            return fail_record(now, "a message's role is one of system, user, assistant");
        if (i == 0 && role != PLX_CHAT_SYSTEM) PLX_TRY(add_system(now));
        PLX_TRY(add_message(now, role, text));
        answered |= role == PLX_CHAT_ASSISTANT;
    }
    return answered ? PLX_OK : fail_record(now, "no message is the assistant's: there is no answer to learn");
}

static plx_status add_instruction(reading *now, const json_t *instruction, const json_t *input, const json_t *output)
{
    plx_context *context = now->made->context;
    PLX_TRY(add_system(now));
    if (input == NULL || json_string_length(input) == 0) {
        PLX_TRY(add_message(now, PLX_CHAT_USER, instruction));
    } else {
        const size_t above = json_string_length(instruction), below = json_string_length(input);
        char *both = plx_alloc(context, above + 2 + below);
        if (both == NULL) return PLX_ERROR_MEMORY;
        memcpy(both, json_string_value(instruction), above);
        memcpy(both + above, "\n\n", 2);
        memcpy(both + above + 2, json_string_value(input), below);
        plx_chat_message message = {PLX_CHAT_USER, both, above + 2 + below};
        plx_status status = plx_chat_add(&now->chat, &message);
        plx_free(context, both);
        PLX_TRY(status);
    }
    return add_message(now, PLX_CHAT_ASSISTANT, output);
}

/* The chat's tokens become an example. */
static plx_status keep(reading *now)
{
    plx_examples *made = now->made;
    const plx_encoder *encoder = &now->chat.encoder;
    size_t count = encoder->count, answers = 0, most = made->options.length + 1;
    if (count > most) {
        count = most;
        made->cut++;
    }
    for (size_t i = 1; i < count; i++) answers += now->chat.answer[i];
    if (answers == 0) {
        made->dropped++;
        return PLX_OK;
    }
    PLX_TRY(grow(made, count));
    memcpy(made->tokens + made->used, encoder->tokens, count * sizeof *made->tokens);
    memcpy(made->answer + made->used, now->chat.answer, count);
    made->begin[made->count++] = made->used;
    made->used += count;
    made->begin[made->count] = made->used;
    return PLX_OK;
}

static plx_status add_record(reading *now, const json_t *record)
{
    const json_t *messages = json_object_get(record, "messages"), *prompt = text_of(record, "prompt", NULL),
                 *instruction = text_of(record, "instruction", NULL);
    if (!json_is_array(messages)) messages = json_object_get(record, "conversations");
    plx_chat_clear(&now->chat);
    if (json_is_array(messages)) {
        PLX_TRY(add_messages(now, messages));
    } else if (prompt != NULL) {
        const json_t *completion = text_of(record, "completion", "response");
        if (completion == NULL)
            return fail_record(now, "a record with \"prompt\" needs \"completion\" or \"response\"");
        PLX_TRY(plx_chat_add_pair(&now->chat, json_string_value(prompt), json_string_length(prompt),
                                  json_string_value(completion), json_string_length(completion)));
    } else if (instruction != NULL) {
        const json_t *output = text_of(record, "output", "response");
        if (output == NULL) return fail_record(now, "a record with \"instruction\" needs \"output\" or \"response\"");
        PLX_TRY(add_instruction(now, instruction, text_of(record, "input", NULL), output));
    } else {
        return fail_record(now, "a record needs \"messages\", or \"prompt\" and \"completion\", or \"instruction\" and "
                                "\"output\"");
    }
    PLX_TRY(plx_chat_flush(&now->chat));
    return keep(now);
}

/* ---- files ---- */

static plx_status read_list(reading *now)
{
    plx_context *context = now->made->context;
    json_error_t error;
    char *text;
    size_t bytes;
    PLX_TRY(plx_file_read(context, now->path, LIST_MOST, &text, &bytes));
    const size_t mark = plx_byte_order_mark(text, bytes);
    json_t *list = json_loadb(text + mark, bytes - mark, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
    plx_free(context, text);
    plx_status status = PLX_OK;
    if (list == NULL) return plx_fail(context, PLX_ERROR_FORMAT, "%s:%d: %s", now->path, error.line, error.text);
    if (!json_is_array(list)) status = fail_record(now, "a .json file holds one list of records");
    for (size_t i = 0; i < json_array_size(list) && status == PLX_OK; i++) {
        now->place = i + 1;
        status = add_record(now, json_array_get(list, i));
        plx_progress(context, "reading conversations", (double)(i + 1), (double)json_array_size(list));
        if (status == PLX_OK) status = plx_check_cancel(now->made->context);
    }
    json_decref(list);
    return status;
}

static plx_status read_lines(reading *now)
{
    plx_text_reader *reader;
    PLX_TRY(plx_text_open(now->made->context, now->path, NULL, &reader));
    plx_status status = PLX_OK;
    while (status == PLX_OK) {
        const json_t *record;
        status = plx_text_next_record(reader, &record, &now->place);
        if (record == NULL) break;
        if (status == PLX_OK) status = add_record(now, record);
        plx_progress(now->made->context, "reading conversations", (double)plx_text_position(reader),
                     (double)plx_text_size(reader));
        if (status == PLX_OK) status = plx_check_cancel(now->made->context);
    }
    plx_text_close(reader);
    return status;
}

plx_status plx_examples_open(plx_context *context, plx_tokenizer *tokenizer, const char *const *paths, size_t count,
                             const plx_examples_options *options, plx_examples **examples)
{
    *examples = NULL;
    plx_examples *made = plx_alloc(context, sizeof *made);
    if (made == NULL) return PLX_ERROR_MEMORY;
    made->context = context;
    made->options = *options;
    made->files = plx_format(context, "%s%s", paths[0], count > 1 ? " and the others" : "");
    reading now = {.made = made, .chat = plx_chat_make(options->form, tokenizer, options->end)};
    plx_status status = made->files != NULL ? PLX_OK : PLX_ERROR_MEMORY;
    for (size_t i = 0; i < count && status == PLX_OK; i++) {
        size_t length = strlen(paths[i]);
        now.path = paths[i];
        now.place = 1;
        now.lines = length < 5 || strcmp(paths[i] + length - 5, ".json") != 0;
        status = now.lines ? read_lines(&now) : read_list(&now);
    }
    plx_chat_release(&now.chat);
    if (status == PLX_OK && made->count > UINT32_MAX)
        status = plx_fail(context, PLX_ERROR_VALUE, "%zu examples are more than 2^32", made->count);
    if (status == PLX_OK && made->count == 0)
        status = plx_fail(context, PLX_ERROR_VALUE,
                          "%s: no example with an answer inside a row of %zu tokens: give more, or a longer "
                          "sequence_length",
                          made->files, options->length);
    if (status == PLX_OK && made->cut > 0)
        plx_log(context, PLX_LOG_WARNING,
                "%zu of %zu examples are longer than sequence_length %zu and were cut; %zu with no answer left are out",
                made->cut, made->count + made->dropped, options->length, made->dropped);
    if (status == PLX_OK)
        *examples = made;
    else
        plx_examples_free(made);
    return status;
}

uint64_t plx_examples_content(const plx_examples *examples)
{
    uint64_t hash = PLX_HASH_START;
    for (size_t i = 0; i < examples->used; i++)
        hash = plx_hash_add(hash, (uint64_t)(uint32_t)examples->tokens[i] << 1 | examples->answer[i]);
    for (size_t i = 0; i < examples->count; i++) hash = plx_hash_add(hash, examples->begin[i]);
    return hash;
}

/* ---- packing ---- */

static size_t slots_of(const plx_examples *made, size_t example)
{
    return made->begin[example + 1] - made->begin[example] - 1;
}

/* Examples [first, first + count) in an order of the seed's, next fit. */
static plx_status pack(plx_example_rows *rows, size_t first, size_t count, uint64_t seed)
{
    const plx_examples *examples = rows->examples;
    size_t filled = 0;
    rows->order = plx_alloc_array(examples->context, count, sizeof *rows->order);
    rows->begin = plx_alloc_array(examples->context, count + 1, sizeof *rows->begin);
    if (rows->order == NULL || rows->begin == NULL) return PLX_ERROR_MEMORY;
    for (size_t i = 0; i < count; i++) {
        size_t example = first + (size_t)plx_random_permute(seed, plx_hash("examples.order"), count, i);
        size_t slots = slots_of(examples, example);
        if (i == 0 || filled + slots > examples->options.length) {
            rows->begin[rows->count++] = (uint32_t)i;
            filled = 0;
        }
        filled += slots;
        rows->order[i] = (uint32_t)example;
    }
    rows->begin[rows->count] = (uint32_t)count;
    return PLX_OK;
}

plx_status plx_examples_pack(const plx_examples *examples, double from, double to, uint64_t seed,
                             plx_example_rows **rows)
{
    plx_context *context = examples->context;
    const double count = (double)examples->count;
    size_t first = (size_t)(from * count + 1e-6); /* 1 - .9 is a little less than a tenth */
    size_t taken = (size_t)(to * count + 1e-6) - first;
    *rows = NULL;
    if (taken == 0)
        return plx_fail(context, PLX_ERROR_VALUE,
                        "%s: data.valid_fraction leaves none of the %zu examples to one side: give more, or another "
                        "fraction (0: none held out)",
                        examples->files, examples->count);
    plx_example_rows *made = plx_alloc(context, sizeof *made);
    if (made == NULL) return PLX_ERROR_MEMORY;
    made->examples = examples;
    plx_status status = pack(made, first, taken, seed);
    if (status == PLX_OK)
        *rows = made;
    else
        plx_example_rows_free(made);
    return status;
}

void plx_example_rows_free(plx_example_rows *rows)
{
    if (rows == NULL) return;
    plx_context *context = rows->examples->context;
    plx_free(context, rows->order);
    plx_free(context, rows->begin);
    plx_free(context, rows);
}

size_t plx_example_rows_count(const plx_example_rows *rows) { return rows->count; }

void plx_example_rows_read(const plx_example_rows *rows, size_t index, int32_t *inputs, int32_t *targets, float *mask,
                           int32_t *start)
{
    const plx_examples *examples = rows->examples;
    size_t t = 0;
    for (size_t i = rows->begin[index]; i < rows->begin[index + 1]; i++) {
        size_t from = examples->begin[rows->order[i]], slots = slots_of(examples, rows->order[i]), first = t;
        for (size_t j = 0; j < slots; j++, t++) {
            inputs[t] = examples->tokens[from + j];
            targets[t] = examples->tokens[from + j + 1];
            mask[t] = examples->answer[from + j + 1];
            start[t] = (int32_t)first;
        }
    }
    for (; t < examples->options.length; t++) {
        inputs[t] = targets[t] = 0;
        mask[t] = 0;
        start[t] = (int32_t)t;
    }
}
