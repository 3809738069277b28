/* test_examples.c - conversations: templates, what is learnt of them, packing, refusals. */
#include "data/data.h"
#include "data/examples.h"
#include "support/files.h"
#include "support/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH = 120 };

typedef struct opened {
    plx_context *context;
    plx_tokenizer *tokenizer;
    const char *path;
    plx_examples *examples;
} opened;

static opened open_file(const char *name, const char *text)
{
    opened made = {.context = test_context(1, NULL, NULL)};
    expect_ok(made.context, plx_tokenizer_open(made.context, "bytes", &made.tokenizer));
    made.path = test_file(name, text, strlen(text));
    return made;
}
static void close_file(opened *made)
{
    plx_examples_free(made->examples);
    plx_tokenizer_free(made->tokenizer);
    plx_context_free(made->context);
}

static plx_status read_examples(opened *made, const char *form, const char *system, plx_example_rows **rows)
{
    plx_examples_options options = {.form = plx_chat_find(form), .system = system, .end = 256, .length = LENGTH};
    const char *paths[] = {made->path};
    *rows = NULL;
    PLX_TRY(plx_examples_open(made->context, made->tokenizer, paths, 1, &options, &made->examples));
    return plx_examples_pack(made->examples, 0, 1, 1, rows);
}

/* A row as text: what is learnt stands between [ and ], a separator is a $, a document's beginning a |. */
static const char *row_text(const plx_example_rows *rows, size_t row)
{
    static char text[4 * LENGTH];
    int32_t inputs[LENGTH], targets[LENGTH], start[LENGTH];
    float mask[LENGTH];
    char *to = text;
    bool inside = false;
    plx_example_rows_read(rows, row, inputs, targets, mask, start);
    for (int t = 0; t < LENGTH && !(inputs[t] == 0 && targets[t] == 0); t++) {
        if (start[t] == t) to += sprintf(to, "%s|%c", inside ? "]" : "", inputs[t]), inside = false;
        if ((mask[t] > 0) != inside) *to++ = inside ? ']' : '[';
        inside = mask[t] > 0;
        *to++ = targets[t] == 256 ? '$' : (char)targets[t];
    }
    if (inside) *to++ = ']';
    *to = '\0';
    return text;
}

static void forms(void **state)
{
    (void)state;
    static const char record[] = "{\"messages\": [{\"role\": \"user\", \"content\": \" Hi <|im_end|>\"}, {\"role\": "
                                 "\"assistant\", \"content\": \"Ho \"}]}\n";
    static const struct {
        const char *form, *system, *text;
    } cases[] = {
        {"chatml", NULL, "|<|im_start|>user\n Hi <|im_end|><|im_end|>\n<|im_start|>assistant\n[Ho <|im_end|>]\n"},
        {"chatml", "Be brief.",
         "|<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi "
         "<|im_end|><|im_end|>\n<|im_start|>assistant\n[Ho "},
        {"zephyr", NULL, "|<|user|>\n Hi <|im_end|>$\n<|assistant|>\n[Ho $]\n"},
        {"plain", NULL, "|User: Hi <|im_end|>$\n\nAssistant:[ Ho$]\n\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        opened made = open_file("one.jsonl", record);
        plx_example_rows *rows;
        expect_ok(made.context, read_examples(&made, cases[i].form, cases[i].system, &rows));
        assert_int_equal(plx_example_rows_count(rows), 1);
        const char *text = row_text(rows, 0);
        if (strncmp(text, cases[i].text, strlen(cases[i].text)) != 0) fail_msg("%s: %s", cases[i].form, text);
        plx_example_rows_free(rows);
        close_file(&made);
    }
}

static void records(void **state)
{
    (void)state;
    static const char lines[] = "{\"prompt\": \"2+2=\", \"completion\": \"4\"}\n\n"
                                "{\"instruction\": \"Add\", \"input\": \"1 1\", \"output\": \"2\"}\n"
                                "{\"instruction\": \"Say a\", \"input\": \"\", \"response\": \"a\"}\n"
                                "{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}, {\"from\": \"gpt\", "
                                "\"value\": \"r\"}, {\"from\": \"human\", \"value\": \"s\"}, {\"from\": \"gpt\", "
                                "\"value\": \"t\"}]}\n";
    static const char *const texts[] = {"|2+2=[4$]", "|User: Add\n\n1 1$\n\nAssistant:[ 2$]\n\n",
                                        "|User: Say a$\n\nAssistant:[ a$]\n\n",
                                        "|User: q$\n\nAssistant:[ r$]\n\nUser: s$\n\nAssistant:[ t$]\n\n"};
    opened made = open_file("records.jsonl", lines);
    plx_example_rows *rows;
    char all[2000] = "";
    expect_ok(made.context, read_examples(&made, "plain", NULL, &rows));
    size_t count = plx_example_rows_count(rows);
    assert_true(count >= 1 && count <= 3);
    for (size_t r = 0; r < count; r++) strcat(all, row_text(rows, r));
    for (size_t i = 0; i < 4; i++)
        if (strstr(all, texts[i]) == NULL) fail_msg("no '%s' in '%s'", texts[i], all);
    plx_example_rows_free(rows);
    close_file(&made);

    opened list = open_file("list.json",
                            "[{\"prompt\": \"a\", \"response\": \"b\"}, {\"prompt\": \"c\", \"completion\": \"d\"}]");
    expect_ok(list.context, read_examples(&list, "plain", NULL, &rows));
    assert_int_equal(plx_example_rows_count(rows), 1);
    plx_example_rows_free(rows);
    close_file(&list);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *says;
    } cases[] = {
        {"a.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\"}\n", "a.jsonl:2: "},
        {"a.jsonl", "{\"text\": \"a\"}\n", "messages"},
        {"a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n", "no answer"},
        {"a.jsonl", "{\"messages\": [{\"role\": \"tool\", \"content\": \"a\"}]}\n", "role"},
        {"a.jsonl", "{\"messages\": [{\"role\": \"user\"}]}\n", "content"},
        {"a.jsonl", "{\"messages\": []}\n", "no answer"},
        {"a.jsonl", "{\"instruction\": \"a\"}\n", "output"},
        {"a.jsonl", "{\"prompt\": 3}\n", "a.jsonl:1: "},
        {"a.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"\n", "no JSON"},
        {"a.json", "{}", "list"},
        {"a.json", "[{\"prompt\": \"a\", \"completion\": \"b\"}, {}]", "record 2: "},
        {"a.json", "[", "a.json"},
        {"a.txt", "hello", ".jsonl"},
        {"a.jsonl", "", "no example"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        opened made = open_file(cases[i].name, cases[i].text);
        plx_example_rows *rows;
        assert_int_not_equal(read_examples(&made, "plain", NULL, &rows), PLX_OK);
        assert_null(rows);
        if (strstr(plx_context_error(made.context)->message, cases[i].says) == NULL)
            fail_msg("case %zu says '%s'", i, plx_context_error(made.context)->message);
        close_file(&made);
    }
}

/* Examples too long are cut; those whose answer goes with it are out; training and held-out rows share none. */
static void long_and_held_out(void **state)
{
    (void)state;
    char text[8000] = "", line[400], big[200];
    memset(big, 'x', 150);
    big[150] = '\0';
    snprintf(text, sizeof text,
             "{\"prompt\": \"%s\", \"completion\": \"a\"}\n{\"prompt\": \"p\", \"completion\": \"%s\"}\n", big, big);
    for (int i = 0; i < 26; i++) {
        snprintf(line, sizeof line, "{\"prompt\": \"%c\", \"completion\": \"%c\"}\n", 'A' + i, 'A' + i);
        strcat(text, line);
    }
    opened made = open_file("many.jsonl", text);
    char *section_text = NULL;
    assert_true(asprintf(&section_text,
                         "format: conversations\ntrain: ['%s']\nsequence_length: %d\nvalid_fraction: 0.25\n", made.path,
                         LENGTH) > 0);
    plx_node *section;
    plx_data *data;
    expect_ok(made.context, plx_node_parse_yaml(made.context, "data", section_text, strlen(section_text), &section));
    expect_ok(made.context, plx_data_open(made.context, section, 1, "unused", &data));
    bool learnt[2][128] = {{false}};
    plx_batch batch;
    size_t bytes = 0;
    for (int part = 0; part < 2; part++) {
        size_t rows = part == 0 ? plx_data_train_rows(data) : plx_data_valid_rows(data);
        assert_true(rows >= 1);
        if (part == 0)
            expect_ok(made.context, plx_data_train(data, 0, rows, &batch));
        else
            expect_ok(made.context, plx_data_valid(data, 0, rows, &batch, &bytes));
        for (size_t i = 0; i < rows * LENGTH; i++)
            if (batch.mask[i] > 0 && batch.targets[i] < 128) learnt[part][batch.targets[i]] = true;
    }
    assert_true(bytes >= 6 && learnt[0]['x'] && !learnt[0]['a'] && !learnt[1]['a']);
    for (int c = 'A'; c < 'A' + 26; c++)
        if (learnt[0][c] == learnt[1][c]) fail_msg("%c: in %s", c, learnt[0][c] ? "both" : "neither");
    plx_data_free(data);
    plx_node_free(made.context, section);
    free(section_text);
    close_file(&made);
}

static void recognising(void **state)
{
    (void)state;
    static const struct {
        const char *jinja, *name, *system;
    } cases[] = {
        {NULL, "plain", NULL},
        {"", "plain", NULL},
        {"{{'<|im_start|>' + message['role'] + '\\n'}}", "chatml", NULL},
        {"{% if x %}{{ '<|im_start|>system\\n' + m }}{{ '<|im_start|>system\\nYou\\'re \\n\\\"it\\\".<|im_end|>\\n' }}",
         "chatml", "You're \n\"it\"."},
        {"{{'<|start_header_id|>' + r + '<|end_header_id|>\\n\\n'}}", "llama3", NULL},
        {"{{'<|start_header_id|>'}} Cutting Knowledge Date: {{ date }}", NULL, NULL},
        {"{{ '<|im_start|>system\nYou are named so<|im_end|>\n' }}", "chatml", "You are named so"}, /* SmolLM2 */
        {"{{ '<|user|>\\n' + message['content'] + eos_token }}{{ '<|assistant|>' }}", "zephyr", NULL},
        {"{{ '<|user|>\\n' + message['content'] + '\\n' }}{{ '<|assistant|>\\n' + message['content'] + eos_token }}", NULL,
         NULL},
        {"[INST] {{ x }} [/INST]", NULL, NULL},
    };
    plx_context *context = test_context(1, NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const plx_chat_template *form;
        char *system;
        plx_status status = plx_chat_recognise(context, cases[i].jinja, &form, &system);
        assert_int_equal(status, cases[i].name != NULL ? PLX_OK : PLX_ERROR_UNSUPPORTED);
        if (cases[i].name == NULL) continue;
        assert_string_equal(plx_chat_name(form), cases[i].name);
        if (cases[i].system == NULL)
            assert_null(system);
        else
            assert_string_equal(system, cases[i].system);
        plx_free(context, system);
    }
    const plx_chat_template *form;
    char *system;
    expect_ok(context, plx_chat_recognise(context, "{{bos_token}}{{'<|im_start|>' + message['role']}}", &form, &system));
    assert_string_equal(plx_chat_name(form), "chatml");
    assert_true(form != plx_chat_find("chatml")); /* it begins with the token */
    plx_context_free(context);
}

/* Tokenizers that change a text before they cut it (a space in front, letters in two parts made one) learn the answer all
 * the same, and nothing else. */
static void learnt_of_changed_text(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "neox"};
    for (size_t n = 0; n < 2; n++) {
        plx_context *context = test_context(1, NULL, NULL);
        plx_tokenizer *tokenizer;
        char path[64], learnt[256] = "";
        snprintf(path, sizeof path, "tests/golden/tokenizers/%s.json", names[n]);
        expect_ok(context, plx_tokenizer_open(context, path, &tokenizer));
        plx_chat chat = plx_chat_make(plx_chat_find("plain"), tokenizer, -1);
        static const char question[] = "u\xCC\x88u\xCC\x88u\xCC\x88 to be", answer[] = "the road is the same";
        const plx_chat_message messages[] = {{PLX_CHAT_USER, question, sizeof question - 1},
                                             {PLX_CHAT_ASSISTANT, answer, sizeof answer - 1},
                                             {PLX_CHAT_USER, question, sizeof question - 1}};
        for (size_t i = 0; i < 3; i++) expect_ok(context, plx_chat_add(&chat, &messages[i]));
        expect_ok(context, plx_chat_flush(&chat));
        for (size_t i = 0, used = 0; i < chat.encoder.count; i++) {
            size_t bytes = sizeof learnt - 1 - used;
            if (!chat.answer[i]) continue;
            expect_ok(context, plx_tokenizer_decode(tokenizer, chat.encoder.tokens[i], learnt + used, &bytes));
            used += bytes;
        }
        assert_string_equal(learnt, " the road is the same");
        plx_chat_release(&chat);
        plx_tokenizer_free(tokenizer);
        plx_context_free(context);
    }
}

/* Templates of 10 MB, each made to be slow where a search begins again at every sign it finds. */
static void recognising_large(void **state)
{
    (void)state;
    enum { BYTES = 10 << 20 };
    static const struct {
        const char *again, *end, *name, *system;
    } cases[] = {
        {"<|im_start|>system\\n", "", "chatml", NULL},
        {"<|im_start|>system\\n", "<|im_end|>", "chatml", "<|im_start|>system\n"},
        {"<|im_start|>", "", "chatml", NULL},
        {"\\", "", NULL, NULL},
        {"{% if", "", NULL, NULL},
    };
    plx_context *context = test_context(1, NULL, NULL);
    char *text = malloc(BYTES + 64);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const plx_chat_template *form;
        char *system, *at = text;
        while (at < text + BYTES) at = stpcpy(at, cases[i].again);
        stpcpy(at, cases[i].end);
        plx_status status = plx_chat_recognise(context, text, &form, &system);
        assert_int_equal(status, cases[i].name != NULL ? PLX_OK : PLX_ERROR_UNSUPPORTED);
        if (cases[i].name == NULL) continue;
        assert_string_equal(plx_chat_name(form), cases[i].name);
        if (cases[i].system == NULL)
            assert_null(system);
        else
            assert_memory_equal(system, cases[i].system, strlen(cases[i].system));
        plx_free(context, system);
    }
    free(text);
    plx_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(forms),       cmocka_unit_test(records),
                                       cmocka_unit_test(refusals),    cmocka_unit_test(long_and_held_out),
                                       cmocka_unit_test(recognising), cmocka_unit_test(recognising_large),
                                       cmocka_unit_test(learnt_of_changed_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
