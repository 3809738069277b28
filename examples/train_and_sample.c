/* train_and_sample.c - trains a small model on a text file with the library alone, then lets it write:
 * train_and_sample FILE [STEPS]. The first call that fails ends it with the context's message. */
#include <plexus.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 8, LENGTH = 64 };

static const char config[] =
    "{\"vocab_size\": 257, \"hidden_size\": 64, \"intermediate_size\": 192, \"num_attention_heads\": 2,"
    " \"max_position_embeddings\": 64, \"tokenizer\": \"bytes\","
    " \"layers\": [{\"mixer\": \"attention\"}, {\"mixer\": \"grassmann\", \"rank\": 16}]}";

static char *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    char *text = malloc(1 << 20); /* the first megabyte is enough here */
    *bytes = file != NULL && text != NULL ? fread(text, 1, 1 << 20, file) : 0;
    if (file != NULL) fclose(file);
    return text;
}

#define TRY(call) do { if ((status = (call)) != PLX_OK) goto failed; } while (0)

int main(int argc, char **argv)
{
    plx_context *context = NULL;
    plx_tokenizer *tokenizer = NULL;
    plx_model *model = NULL;
    plx_trainer *trainer = NULL;
    plx_generated text = {0};
    int32_t *tokens = NULL, inputs[ROWS * LENGTH], targets[ROWS * LENGTH];
    size_t bytes = 0, count = 0, steps = argc > 2 ? strtoul(argv[2], NULL, 10) : 200;
    char *file = argc > 1 ? read_file(argv[1], &bytes) : NULL;
    if (bytes < LENGTH + 2) {
        fprintf(stderr, "usage: train_and_sample FILE [STEPS], a file of at least %d bytes\n", LENGTH + 2);
        free(file);
        return 2;
    }
    plx_status status;
    TRY(plx_context_create(NULL, &context));
    TRY(plx_tokenizer_open(context, "bytes", &tokenizer));
    TRY(plx_tokenizer_encode(tokenizer, file, bytes, &tokens, &count));
    TRY(plx_model_create(context, config, NULL, &model));
    plx_train_options options = plx_train_defaults();
    options.steps = steps;
    options.warmup_steps = steps / 10;
    TRY(plx_trainer_create(model, &options, ROWS, LENGTH, &trainer));
    for (size_t step = 0; step < steps; step++) {
        for (size_t row = 0; row < ROWS; row++) { /* windows spread over the text; targets are one token ahead */
            size_t first = (step * ROWS + row) * 7919 % (count - LENGTH);
            memcpy(inputs + row * LENGTH, tokens + first, LENGTH * sizeof *tokens);
            memcpy(targets + row * LENGTH, tokens + first + 1, LENGTH * sizeof *tokens);
        }
        plx_batch batch = {.rows = ROWS, .length = LENGTH, .inputs = inputs, .targets = targets};
        plx_step_report report;
        TRY(plx_trainer_step(trainer, &batch, 1, &report));
        if (report.step % 50 == 0) printf("step %zu: loss %.3f\n", report.step, report.loss);
    }
    plx_generate_options generate = plx_generate_defaults();
    generate.max_tokens = 120;
    generate.sampling.temperature = 0.7;
    TRY(plx_generate(model, tokenizer, file, 16, &generate, &text)); /* goes on from the file's first 16 bytes */
    printf("%.16s%.*s\n", file, (int)text.bytes, text.text);
failed:
    if (status != PLX_OK)
        fprintf(stderr, "%s: %s\n", plx_status_name(status), context ? plx_context_error(context)->message : "");
    if (model != NULL) plx_generated_free(model, &text);
    plx_trainer_free(trainer);
    plx_model_free(model);
    if (tokenizer != NULL) plx_tokens_free(tokenizer, tokens);
    plx_tokenizer_free(tokenizer);
    plx_context_free(context);
    free(file);
    return status != PLX_OK;
}
