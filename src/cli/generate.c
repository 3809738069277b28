/* generate.c - plexus generate: writes text as a model makes it; several prompts are worked on together. */
#include "cli/live.h"
#include "core/context.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The prompts, whose texts lie in `memory`, the arguments or the JSON lines. */
typedef struct prompt_list {
    plx_prompt *items;
    size_t count, room;
    char *memory;
    json_t *lines; /* a list of strings */
} prompt_list;

static void release_prompts(prompt_list *list)
{
    free(list->items);
    free(list->memory);
    json_decref(list->lines);
}

static int add_prompt(prompt_list *list, const char *text, size_t bytes)
{
    if (list->count == list->room) {
        size_t room = list->room * 2 + 16;
        plx_prompt *grown = realloc(list->items, room * sizeof *grown);
        if (!grown) return cli_error("out of memory while reading prompts");
        list->items = grown;
        list->room = room;
    }
    list->items[list->count++] = (plx_prompt){text, bytes};
    return 0;
}

/* The whole of a file, or of stdin for "-". */
static int read_file(const char *path, char **text, size_t *bytes)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    size_t room = 0;
    bool failed = !file;
    *bytes = 0;
    while (!failed && !feof(file)) {
        if (*bytes == room) {
            char *grown = realloc(*text, room = room * 2 + 4096);
            if (!grown) break;
            *text = grown;
        }
        *bytes += fread(*text + *bytes, 1, room - *bytes, file);
        failed = ferror(file);
    }
    bool done = !failed && feof(file);
    if (!done) cli_error("%s: cannot read the prompt: %s", path, failed ? strerror(errno) : "out of memory");
    if (file && file != stdin) fclose(file);
    return done ? 0 : 1;
}

static bool has_ending(const char *path, const char *ending)
{
    size_t length = strlen(path), wanted = strlen(ending);
    return length >= wanted && strcmp(path + length - wanted, ending) == 0;
}

static int add_json_prompt(prompt_list *list, const char *path, size_t number, const char *line, size_t bytes)
{
    json_error_t error;
    json_t *object = json_loadb(line, bytes, JSON_ALLOW_NUL, &error);
    json_t *prompt = json_object_get(object, "prompt");
    int result = 1;
    if (!object)
        cli_error("%s:%zu: no JSON: %s", path, number, error.text);
    else if (!json_is_string(prompt))
        cli_error("%s:%zu: wants an object with the text \"prompt\"", path, number);
    else if (json_array_append(list->lines, prompt) != 0)
        cli_error("out of memory while reading prompts");
    else
        result = add_prompt(list, json_string_value(prompt), json_string_length(prompt));
    json_decref(object);
    return result;
}

/* A prompt a line, JSON or plain; empty lines are none. */
static int read_prompts(const char *path, prompt_list *list)
{
    bool json = has_ending(path, ".jsonl") || has_ending(path, ".ndjson");
    size_t bytes;
    int result = read_file(path, &list->memory, &bytes);
    if (json && !(list->lines = json_array())) return cli_error("out of memory while reading prompts");
    const char *at = list->memory, *end = result == 0 ? at + bytes : at;
    at += plx_byte_order_mark(at, (size_t)(end - at));
    for (size_t number = 1; at < end && result == 0; number++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((newline ? newline : end) - at);
        if (length > 0 && at[length - 1] == '\r') length--;
        if (length > 0) result = json ? add_json_prompt(list, path, number, at, length) : add_prompt(list, at, length);
        at = newline ? newline + 1 : end;
    }
    return result == 0 && list->count == 0 ? cli_error("%s: no prompts", path) : result;
}

/* What the callbacks need to know. */
typedef struct output {
    plx_cli *cli;
    const plx_prompt *prompts;
    size_t count, printed;  /* printed: the first result that is not out yet */
    plx_generated *results; /* [count] */
    bool *done;             /* [count] */
    size_t tokens;
    bool begun; /* the text of the only prompt is on its way */
} output;

/* The prompt comes first, but only when it has been read: until then the terminal's line shows how far that is. */
static void begin_text(output *out)
{
    if (!out->begun) cli_write(out->cli, out->prompts->text, out->prompts->bytes);
    out->begun = true;
}

static void on_piece(void *user, const char *text, size_t bytes)
{
    output *out = user;
    begin_text(out);
    cli_write(out->cli, text, bytes);
    cli_flush(out->cli);
}

static double rate(size_t tokens, double seconds) { return seconds > 0 ? (double)tokens / seconds : 0.0; }

static int show_json(plx_cli *cli, const plx_prompt *prompt, const plx_generated *made)
{
    return cli_json(cli, json_pack("{s:o,s:o,s:I,s:f,s:I,s:f}", "prompt", cli_json_text(prompt->text, prompt->bytes),
                                   "text", cli_json_text(made->text, made->bytes), "tokens", (json_int_t)made->tokens,
                                   "tokens_per_second", rate(made->tokens, made->seconds), "read",
                                   (json_int_t)made->read, "read_seconds", made->read_seconds));
}

/* Of several prompts: all results that no earlier one holds back. */
static void on_finished(void *user, size_t index, const plx_generated *result)
{
    output *out = user;
    out->done[index] = true;
    out->tokens += result->tokens;
    for (; out->printed < out->count && out->done[out->printed]; out->printed++) {
        const plx_prompt *prompt = &out->prompts[out->printed];
        const plx_generated *made = &out->results[out->printed];
        if (out->cli->json) {
            show_json(out->cli, prompt, made);
            continue;
        }
        cli_write(out->cli, prompt->text, prompt->bytes);
        cli_write(out->cli, made->text, made->bytes);
        cli_print(out->cli, out->printed + 1 < out->count ? "\n\n" : "\n");
        cli_flush(out->cli);
    }
}

static void tell_speed(const plx_cli *cli, size_t tokens, double seconds)
{
    if (!cli->quiet && !cli->output_failed)
        fprintf(stderr, "plexus: %zu tokens, %.1f tokens/s\n", tokens, rate(tokens, seconds));
}

static plx_status write_one(output *out, plx_model *model, plx_tokenizer *tokenizer, plx_generate_options *options)
{
    plx_cli *cli = out->cli;
    plx_generated made;
    if (!cli->json) options->piece = on_piece;
    plx_status status = plx_generate(model, tokenizer, out->prompts->text, out->prompts->bytes, options, &made);
    if (status == PLX_CANCELLED && out->begun) cli_print(cli, "\n");
    if (status != PLX_OK) return status;
    if (cli->json) {
        show_json(cli, out->prompts, &made);
    } else {
        begin_text(out);
        cli_print(cli, "\n");
    }
    cli_flush(cli);
    if (!cli->json) tell_speed(cli, made.tokens, made.seconds);
    plx_generated_free(model, &made);
    return PLX_OK;
}

static plx_status write_several(output *out, plx_model *model, plx_tokenizer *tokenizer, plx_generate_options *options)
{
    options->finished = on_finished;
    double begun = cli_seconds();
    plx_status status = plx_generate_batch(model, tokenizer, out->prompts, out->count, options, out->results);
    if (status == PLX_OK) tell_speed(out->cli, out->tokens, cli_seconds() - begun);
    for (size_t i = 0; i < out->count && status == PLX_OK; i++) plx_generated_free(model, &out->results[i]);
    return status;
}

static int generate(plx_cli *cli, const prompt_list *prompts, plx_generate_options *options,
                    const plx_model_options *load)
{
    plx_model *model = NULL;
    plx_tokenizer *tokenizer = NULL;
    output out = {.cli = cli, .prompts = prompts->items, .count = prompts->count};
    out.results = calloc(out.count, sizeof *out.results);
    out.done = calloc(out.count, sizeof *out.done);
    if (!out.results || !out.done) {
        free(out.results);
        free(out.done);
        return cli_error("out of memory");
    }
    options->user = &out;
    plx_status status = plx_model_load(cli->context, cli->arguments[0], load, &model);
    if (status == PLX_OK) status = plx_model_tokenizer(model, &tokenizer);
    if (status == PLX_OK) status = (out.count == 1 ? write_one : write_several)(&out, model, tokenizer, options);
    int result = status == PLX_OK ? cli_finish(cli) : cli_fail(cli, status);
    plx_model_free(model);
    free(out.results);
    free(out.done);
    return result;
}

int cli_generate(plx_cli *cli, int argc, char **argv)
{
    plx_generate_options options = plx_generate_defaults();
    plx_model_options load = {0};
    plx_sampling *sampling = &options.sampling;
    cli_texts prompts = {0};
    const char *prompt_file = NULL, *prompts_file = NULL, *weights = NULL, *state = NULL;
    size_t seed = 0;
    const cli_option table[] = {
        {"prompt", CLI_TEXTS, &prompts, "TEXT",
         "the text to go on from (empty: the beginning of a document); again for more", 0, 0},
        {"prompt-file", CLI_TEXT, &prompt_file, "FILE", "the same from a file, or from standard input with -", 0, 0},
        {"prompts", CLI_TEXT, &prompts_file, "FILE", "many, one a line (.jsonl: objects with \"prompt\"); - as above",
         0, 0},
        {"batch", CLI_SIZE, &options.together, "N", "of several prompts so many are worked on together (8)", 1, 4096},
        {"max-tokens", CLI_SIZE, &options.max_tokens, "N", "most tokens to write (256)", 1, 1 << 30},
        {"temperature", CLI_REAL, &sampling->temperature, "X", "0 always takes the likeliest token (1)", 0, 1e6},
        {"top-k", CLI_SIZE, &sampling->top_k, "N", "only the N likeliest; 0: all (0)", 0, 0},
        {"top-p", CLI_REAL, &sampling->top_p, "X", "only the likeliest that together have this probability (1)", 1e-9,
         1},
        {"min-p", CLI_REAL, &sampling->min_p, "X", "only those at least X times as likely as the likeliest (0)", 0, 1},
        {"repetition-penalty", CLI_REAL, &sampling->repetition_penalty, "X",
         "above 1: tokens seen before become less likely (1)", 1e-6, 1e6},
        {"seed", CLI_SIZE, &seed, "N", "of the random choices: the same seed writes the same text (0)", 0, 0},
        {"adapter", CLI_TEXT, &load.adapter, "DIR", "put this adapter (of the peft package) on the model", 0, 0},
        CLI_STATE_OPTION(state),
        {"stop", CLI_FLAG, &options.stop_at_separator, NULL, "end where the model ends the document", 0, 0},
        CLI_WEIGHTS_OPTION(weights),
        {0},
    };
    prompt_list list = {0};
    int result = cli_parse(cli, "generate", table, 1, 1, argc, argv);
    if (result == CLI_GO_ON && (prompts.count > 0) + (prompt_file != NULL) + (prompts_file != NULL) > 1)
        result = cli_usage_error("generate", "generate: --prompt, --prompt-file and --prompts exclude each other");
    if (result == CLI_GO_ON && !cli_weights(weights, &load))
        result = cli_usage_error("generate", "generate: " CLI_WEIGHTS_WRONG, weights);
    if (result == CLI_GO_ON && cli_state_form("generate", state, &options.state) != 0) result = 2;
    if (result == CLI_GO_ON) {
        sampling->seed = seed;
        result = 0;
        size_t bytes;
        if (prompts_file) {
            result = read_prompts(prompts_file, &list);
        } else if (prompt_file) {
            result = read_file(prompt_file, &list.memory, &bytes);
            if (result == 0) result = add_prompt(&list, list.memory, bytes);
        } else {
            for (size_t i = 0; i < prompts.count && result == 0; i++)
                result = add_prompt(&list, prompts.items[i], strlen(prompts.items[i]));
            if (prompts.count == 0) result = add_prompt(&list, "", 0);
        }
        if (result == 0) result = generate(cli, &list, &options, &load);
    }
    release_prompts(&list);
    cli_texts_free(&prompts);
    return result;
}
