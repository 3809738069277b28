/* chat.c - plexus chat: a conversation at the terminal.
 *
 * A line is a question; lines that begin with / are commands. Ctrl-C stops the answer, and at the prompt the program.
 * With
 * --prompt one question is answered, for scripts. */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct talk {
    plx_cli *cli;
    plx_conversation *conversation;
    bool terminal; /* someone types: prompts are shown */
} talk;

static void on_piece(void *user, const char *text, size_t bytes)
{
    plx_cli *cli = user;
    cli_write(cli, text, bytes);
    cli_flush(cli);
}

static json_t *messages_json(const plx_conversation *conversation)
{
    json_t *list = json_array();
    for (size_t i = 0; list != NULL && i < plx_conversation_count(conversation); i++) {
        const char *role, *text;
        size_t bytes;
        plx_conversation_message(conversation, i, &role, &text, &bytes);
        json_t *item = json_pack("{s:s,s:o}", "role", role, "content", cli_json_text(text, bytes));
        if (json_array_append_new(list, item) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

/* One line of JSON, {"messages": [...]}, at the end of the file: what `plexus sft` reads. */
static void save(talk *now, const char *path)
{
    json_t *record = json_pack("{s:o}", "messages", messages_json(now->conversation));
    char *text = record != NULL ? json_dumps(record, 0) : NULL;
    FILE *file = text != NULL ? fopen(path, "ab") : NULL;
    bool good = file != NULL && fprintf(file, "%s\n", text) > 0 && fflush(file) == 0 && fsync(fileno(file)) == 0;
    if (!good)
        fprintf(stderr, "%s: not saved: %s\n", path, text == NULL ? "out of memory" : strerror(errno));
    else
        fprintf(stderr, "%zu messages added to %s\n", plx_conversation_count(now->conversation), path);
    if (file != NULL) fclose(file);
    free(text);
    json_decref(record);
}

static void help(void)
{
    fputs("/reset         forget the conversation\n"
          "/system TEXT   begin anew with this message of the system (none: /system)\n"
          "/save FILE     add the conversation to a file, one line of JSON that plexus sft reads\n"
          "/quit          leave (or Ctrl-D); Ctrl-C stops an answer\n",
          stderr);
}

/* False: the conversation is over. */
static bool command(talk *now, char *line, plx_status *status)
{
    char *argument = line + strcspn(line, " \t");
    if (*argument != '\0') *argument++ = '\0';
    argument += strspn(argument, " \t");
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) return false;
    if (strcmp(line, "/reset") == 0)
        *status = plx_conversation_reset(now->conversation);
    else if (strcmp(line, "/system") == 0)
        *status = plx_conversation_set_system(now->conversation, argument);
    else if (strcmp(line, "/save") == 0 && *argument != '\0')
        save(now, argument);
    else if (strcmp(line, "/help") == 0)
        help();
    else
        fprintf(stderr, "there is no '%s' here; /help lists what there is\n", line);
    return true;
}

static json_t *answer_json(const char *question, size_t bytes, const plx_answer *answer)
{
    return json_pack("{s:o,s:o,s:I,s:f,s:b,s:I,s:f}", "prompt", cli_json_text(question, bytes), "text",
                     cli_json_text(answer->text, answer->bytes), "tokens", (json_int_t)answer->tokens,
                     "tokens_per_second", answer->seconds > 0 ? (double)answer->tokens / answer->seconds : 0.0,
                     "complete", answer->complete, "read", (json_int_t)answer->read, "read_seconds",
                     answer->read_seconds);
}

static plx_status ask(talk *now, const char *question, size_t bytes)
{
    plx_cli *cli = now->cli;
    plx_answer answer;
    plx_status status = plx_conversation_ask(now->conversation, question, bytes, &answer);
    bool stopped = status == PLX_CANCELLED && cli_interrupted() && now->terminal;
    if (status != PLX_OK && !stopped) return status;
    if (cli->json) {
        cli_json(cli, answer_json(question, bytes, &answer));
        return PLX_OK;
    }
    cli_print(cli, "\n");
    cli_flush(cli);
    if (answer.forgotten > 0 && !cli->quiet)
        fprintf(stderr, "(the conversation was full: its %zu oldest messages are forgotten)\n", answer.forgotten);
    if (!stopped && !answer.complete && !cli->quiet)
        fprintf(stderr, "(cut off: --max-tokens or --context allow no more)\n");
    if (stopped) {
        cli_forget_interruption();
        fprintf(stderr, "(stopped)\n");
    } else if (!cli->quiet && now->terminal) {
        fprintf(stderr, "(%zu tokens, %.1f tokens/s)\n", answer.tokens,
                answer.seconds > 0 ? (double)answer.tokens / answer.seconds : 0.0);
    }
    return PLX_OK;
}

static plx_status converse(talk *now)
{
    plx_status status = PLX_OK;
    char *line = NULL;
    size_t room = 0;
    while (status == PLX_OK) {
        if (now->terminal) fprintf(stderr, "\n> ");
        ssize_t length = cli_read_line(&line, &room);
        if (length < 0) break;
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) line[--length] = '\0';
        if (now->terminal && line[0] == '/') {
            if (!command(now, line, &status)) break;
        } else if (length > 0) {
            status = ask(now, line, (size_t)length);
            if (status == PLX_ERROR_VALUE && now->terminal) { /* a question too long: the next may not be */
                cli_fail(now->cli, status);
                status = PLX_OK;
            }
        }
    }
    free(line);
    if (now->terminal) fputc('\n', stderr);
    return status;
}

static plx_status run(talk *now, const char *prompt, const plx_model_options *load,
                      const plx_conversation_options *options)
{
    plx_cli *cli = now->cli;
    plx_model *model = NULL;
    plx_tokenizer *tokenizer = NULL;
    plx_status status = plx_model_load(cli->context, cli->arguments[0], load, &model);
    if (status == PLX_OK) status = plx_model_tokenizer(model, &tokenizer);
    if (status == PLX_OK) status = plx_conversation_create(model, tokenizer, options, &now->conversation);
    if (status == PLX_OK && now->terminal && !cli->quiet)
        fprintf(stderr, "%s, chat template %s; /help lists commands\n", cli->arguments[0],
                plx_conversation_template(now->conversation));
    if (status == PLX_OK) status = prompt != NULL ? ask(now, prompt, strlen(prompt)) : converse(now);
    plx_conversation_free(now->conversation);
    plx_model_free(model);
    return status;
}

int cli_chat(plx_cli *cli, int argc, char **argv)
{
    const char *prompt = NULL, *weights = NULL, *state = NULL;
    plx_conversation_options chosen = plx_conversation_defaults();
    plx_model_options load = {0};
    plx_sampling *sampling = &chosen.sampling;
    size_t seed = 0;
    const cli_option table[] = {
        {"prompt", CLI_TEXT, &prompt, "TEXT", "answer this one question and leave", 0, 0},
        {"system", CLI_TEXT, &chosen.system, "TEXT", "message of the system (the template's own, if it has one)", 0, 0},
        {"chat-template", CLI_TEXT, &chosen.chat_template, "NAME",
         "chatml, llama3, zephyr or plain (what came with the model)", 0, 0},
        {"adapter", CLI_TEXT, &load.adapter, "DIR", "put this adapter (of the peft package) on the model", 0, 0},
        {"max-tokens", CLI_SIZE, &chosen.max_tokens, "N", "of an answer (512)", 1, 1 << 20},
        {"context", CLI_SIZE, &chosen.capacity, "N", "tokens of the conversation (the model's positions, at most 4096)",
         16, 1 << 24},
        {"temperature", CLI_REAL, &sampling->temperature, "X", "0: the likeliest token (0.7)", 0, 1e6},
        {"top-k", CLI_SIZE, &sampling->top_k, "N", "draw from the N likeliest (0: all)", 0, 1 << 30},
        {"top-p", CLI_REAL, &sampling->top_p, "X",
         "draw from the likeliest that have this part of the probability (0.95)", 1e-9, 1},
        {"min-p", CLI_REAL, &sampling->min_p, "X", "leave out tokens less likely than X times the likeliest (0)", 0, 1},
        {"repetition-penalty", CLI_REAL, &sampling->repetition_penalty, "X", "above 1: less of what was said (1)", 1e-3,
         1e3},
        CLI_STATE_OPTION(state),
        {"seed", CLI_SIZE, &seed, "N", "of the draws (0)", 0, 0},
        CLI_WEIGHTS_OPTION(weights),
        {0},
    };
    int go_on = cli_parse(cli, "chat", table, 1, 1, argc, argv);
    if (go_on != CLI_GO_ON) return go_on;
    if (!cli_weights(weights, &load)) return cli_usage_error("chat", "chat: " CLI_WEIGHTS_WRONG, weights);
    int known = cli_state_form("chat", state, &chosen.state);
    if (known != 0) return known;
    talk now = {.cli = cli, .terminal = prompt == NULL && isatty(STDIN_FILENO)};
    sampling->seed = seed;
    if (!cli->json) {
        chosen.piece = on_piece;
        chosen.user = cli;
    }
    plx_status status = run(&now, prompt, &load, &chosen);
    return status == PLX_OK ? cli_finish(cli) : cli_fail(cli, status);
}
