/* data.c - training and held-out rows, from text or from a task (data.h). */
#include "data/data.h"

#include "core/random.h"
#include "data/examples.h"
#include "data/section.h"
#include "data/windows.h"
#include "io/files.h"

#include <stdio.h>

struct plx_data {
    plx_context *context;
    plx_data_section section; /* its strings are used while opening only: they belong to the recipe */
    uint64_t seed;
    plx_tokenizer *tokenizer;
    plx_corpus *train_corpus, *valid_corpus; /* valid_corpus: NULL where the end of the other is held out */
    plx_windows train, valid;
    /* Conversations, instead of windows; those held out are some of the first where no files are given for them. */
    plx_examples *examples, *valid_examples;
    plx_example_rows *train_rows, *valid_rows; /* valid_rows: NULL where nothing is held out */
    uint64_t train_seed, valid_seed; /* of a task's rows */
    /* the batch last made: [capacity] each; window: length + 1 */
    int32_t *inputs, *targets, *start, *window;
    float *mask;
    size_t capacity;
};

static plx_status open_corpus(plx_data *self, const char *directory, const char *name, const char *const *texts,
                              size_t count, plx_corpus **corpus)
{
    char *path = plx_format(self->context, "%s/%s.tokens", directory, name);
    if (path == NULL) return PLX_ERROR_MEMORY;
    plx_status status =
        plx_corpus_open(self->context, path, self->tokenizer, texts, count, &self->section.text, corpus);
    plx_free(self->context, path);
    return status;
}

/* Both parts must fill a window; a held-out one may be padded. */
static plx_status check_lengths(const plx_data *self)
{
    plx_context *context = self->context;
    size_t length = self->train.length;
    unsigned long long train = self->train.tokens, valid = self->valid.tokens;
    bool held_out = self->valid_corpus != NULL || self->section.valid_fraction > 0.0;
    if (plx_windows_whole(&self->train) == 0) {
        char fit[96] = "give more text";
        if (train >= 2) snprintf(fit, sizeof fit, "give more text or a sequence_length of at most %llu", train - 1);
        return plx_fail(context, PLX_ERROR_VALUE,
                        "the training text has %llu tokens%s; a window of sequence_length %zu needs %zu: %s", train,
                        held_out && self->valid_corpus == NULL ? " besides what is held out" : "", length, length + 1,
                        fit);
    }
    if (held_out && plx_windows_all(&self->valid) == 0)
        return plx_fail(
            context, PLX_ERROR_VALUE,
            "the held-out text has %llu tokens of %llu, at least 2 are needed: give more text, raise valid_fraction or "
            "set it to 0",
            valid, train + valid);
    return PLX_OK;
}

static plx_status open_text(plx_data *self, const char *directory)
{
    plx_data_section *section = &self->section;
    plx_windows windows = {.length = section->about.sequence_length, .separator = (int32_t)section->about.separator};
    PLX_TRY(plx_tokenizer_open(self->context, section->tokenizer, &self->tokenizer));
    PLX_TRY(plx_directory_make(self->context, directory));
    PLX_TRY(open_corpus(self, directory, "train", section->train, section->train_count, &self->train_corpus));
    self->train = self->valid = windows;
    self->train.corpus = self->valid.corpus = self->train_corpus;
    self->train.tokens = plx_corpus_tokens(self->train_corpus);
    if (section->valid_count > 0) {
        PLX_TRY(open_corpus(self, directory, "valid", section->valid, section->valid_count, &self->valid_corpus));
        self->valid.corpus = self->valid_corpus;
        self->valid.tokens = plx_corpus_tokens(self->valid_corpus);
    } else {
        self->valid.tokens = (uint64_t)((double)self->train.tokens * section->valid_fraction);
        self->train.tokens -= self->valid.tokens;
        self->valid.begin = self->train.tokens;
    }
    return check_lengths(self);
}

/* Conversations: the template's name, or what comes with the tokenizer. */
static plx_status open_examples(plx_data *self, int32_t end)
{
    const plx_data_section *section = &self->section;
    plx_context *context = self->context;
    char *own_system = NULL;
    const double to = 1 - section->valid_fraction;
    plx_examples_options options = {.system = section->system, .end = end, .length = section->about.sequence_length};
    PLX_TRY(plx_tokenizer_open(context, section->tokenizer, &self->tokenizer));
    if (section->chat_template != NULL)
        options.form = plx_chat_find(section->chat_template);
    else
        PLX_TRY(plx_chat_recognise(context, plx_tokenizer_chat_template(self->tokenizer), &options.form, &own_system));
    if (options.system == NULL) options.system = own_system;
    plx_status status = plx_examples_open(context, self->tokenizer, section->train, section->train_count, &options,
                                          &self->examples);
    if (status == PLX_OK) status = plx_examples_pack(self->examples, 0, to, self->seed, &self->train_rows);
    if (status == PLX_OK && section->valid_count > 0) {
        status = plx_examples_open(context, self->tokenizer, section->valid, section->valid_count, &options,
                                   &self->valid_examples);
        if (status == PLX_OK) status = plx_examples_pack(self->valid_examples, 0, 1, self->seed, &self->valid_rows);
    } else if (status == PLX_OK && section->valid_fraction > 0) {
        status = plx_examples_pack(self->examples, to, 1, self->seed, &self->valid_rows);
    }
    plx_free(context, own_system);
    return status;
}

/* Training and held-out rows of a task come from two seeds made of the one. */
static uint64_t derive_seed(uint64_t seed, const char *purpose)
{
    uint32_t block[4];
    plx_philox(seed, plx_hash(purpose), 0, block);
    return (uint64_t)block[0] << 32 | block[1];
}

plx_status plx_data_open(plx_context *context, const plx_node *section, uint64_t seed, const char *cache_directory,
                         plx_data **data)
{
    *data = NULL;
    plx_data *self = plx_alloc(context, sizeof *self);
    if (self == NULL) return PLX_ERROR_MEMORY;
    self->context = context;
    self->seed = seed;
    self->train_seed = derive_seed(seed, "task.train");
    self->valid_seed = derive_seed(seed, "task.valid");
    plx_status status = plx_data_section_read(context, section, &self->section);
    if (status == PLX_OK && self->section.conversations)
        status = open_examples(self, (int32_t)self->section.about.end);
    else if (status == PLX_OK && self->section.task == NULL)
        status = open_text(self, cache_directory);
    if (status == PLX_OK) {
        self->window = plx_alloc_array(context, self->section.about.sequence_length + 1, sizeof *self->window);
        if (self->window == NULL) status = PLX_ERROR_MEMORY;
    }
    if (status == PLX_OK)
        *data = self;
    else
        plx_data_free(self);
    return status;
}

static void free_batch(plx_data *self)
{
    plx_free(self->context, self->inputs);
    plx_free(self->context, self->targets);
    plx_free(self->context, self->start);
    plx_free(self->context, self->mask);
    self->inputs = self->targets = self->start = NULL;
    self->mask = NULL;
    self->capacity = 0;
}

void plx_data_free(plx_data *data)
{
    if (data == NULL) return;
    free_batch(data);
    plx_free(data->context, data->window);
    plx_example_rows_free(data->train_rows);
    plx_example_rows_free(data->valid_rows);
    plx_examples_free(data->examples);
    plx_examples_free(data->valid_examples);
    plx_corpus_close(data->train_corpus);
    plx_corpus_close(data->valid_corpus);
    plx_tokenizer_free(data->tokenizer);
    plx_data_section_release(&data->section);
    plx_free(data->context, data);
}

/* Makes room for a batch and points it there. */
static plx_status make_batch(plx_data *self, size_t rows, plx_batch *batch)
{
    plx_context *context = self->context;
    size_t length = self->section.about.sequence_length, count;
    if (rows == 0 || !plx_multiply_sizes(rows, length, &count))
        return plx_fail(context, PLX_ERROR_VALUE, "a batch of %zu rows of %zu tokens cannot be made", rows, length);
    if (count > self->capacity) {
        free_batch(self);
        self->inputs = plx_alloc_array(context, count, sizeof *self->inputs);
        self->targets = plx_alloc_array(context, count, sizeof *self->targets);
        self->start = plx_alloc_array(context, count, sizeof *self->start);
        self->mask = plx_alloc_array(context, count, sizeof *self->mask);
        if (self->inputs == NULL || self->targets == NULL || self->start == NULL || self->mask == NULL) {
            free_batch(self);
            return PLX_ERROR_MEMORY;
        }
        self->capacity = count;
    }
    *batch = (plx_batch){rows, length, self->inputs, self->targets, self->mask, self->start};
    return PLX_OK;
}

static plx_status text_row(plx_data *self, const plx_windows *windows, uint64_t index, size_t at)
{
    return plx_windows_read(windows, index, self->window, self->inputs + at, self->targets + at, self->mask + at,
                            self->start + at);
}

static void example_row(plx_data *self, const plx_example_rows *rows, uint64_t index, size_t at)
{
    plx_example_rows_read(rows, index, self->inputs + at, self->targets + at, self->mask + at, self->start + at);
}

static void task_row(plx_data *self, uint64_t seed, uint64_t row, size_t at)
{
    for (size_t t = 0; t < self->section.about.sequence_length; t++) self->start[at + t] = 0;
    self->section.task->generate(self->section.task_options, seed, row, self->inputs + at, self->targets + at,
                                 self->mask + at);
}

/* A row beyond the end of the held-out set. */
static void padding_row(plx_data *self, size_t at)
{
    for (size_t t = 0; t < self->section.about.sequence_length; t++) {
        self->inputs[at + t] = self->targets[at + t] = 0;
        self->mask[at + t] = 0.0f;
        self->start[at + t] = (int32_t)t;
    }
}

plx_status plx_data_train(plx_data *data, uint64_t first, size_t rows, plx_batch *batch)
{
    size_t length = data->section.about.sequence_length;
    PLX_TRY(make_batch(data, rows, batch));
    uint64_t count = plx_data_train_rows(data), stream = plx_hash("data.pass");
    for (size_t r = 0; r < rows; r++) {
        uint64_t row = first + r;
        if (data->section.task != NULL) {
            task_row(data, data->train_seed, row, r * length);
            continue;
        }
        uint64_t index = plx_random_permute(data->seed, stream + row / count, count, row % count);
        if (data->examples != NULL)
            example_row(data, data->train_rows, index, r * length);
        else
            PLX_TRY(text_row(data, &data->train, index, r * length));
    }
    return PLX_OK;
}

plx_status plx_data_valid(plx_data *data, uint64_t first, size_t rows, plx_batch *batch, size_t *bytes)
{
    size_t length = data->section.about.sequence_length, counted = 0;
    uint64_t total = plx_data_valid_rows(data);
    PLX_TRY(make_batch(data, rows, batch));
    for (size_t r = 0; r < rows; r++) {
        if (first >= total || r >= total - first)
            padding_row(data, r * length);
        else if (data->valid_rows != NULL)
            example_row(data, data->valid_rows, first + r, r * length);
        else if (data->section.task != NULL)
            task_row(data, data->valid_seed, first + r, r * length);
        else
            PLX_TRY(text_row(data, &data->valid, first + r, r * length));
    }
    for (size_t i = 0; data->tokenizer != NULL && i < rows * length; i++)
        if (data->mask[i] > 0.0f) counted += plx_token_byte_count(data->tokenizer, data->targets[i]);
    if (first >= total) batch->rows = 0;
    *bytes = counted;
    return PLX_OK;
}

uint64_t plx_data_valid_rows(const plx_data *data)
{
    if (data->section.task != NULL) return data->section.valid_rows;
    if (data->examples != NULL) return data->valid_rows != NULL ? plx_example_rows_count(data->valid_rows) : 0;
    return plx_windows_all(&data->valid);
}

uint64_t plx_data_content(const plx_data *data)
{
    if (data->section.task != NULL) return 0;
    uint64_t content = PLX_HASH_START;
    if (data->examples != NULL) content = plx_hash_add(content, plx_examples_content(data->examples));
    if (data->valid_examples != NULL) content = plx_hash_add(content, plx_examples_content(data->valid_examples));
    if (data->train_corpus != NULL) content = plx_hash_add(content, plx_corpus_content(data->train_corpus));
    if (data->valid_corpus != NULL) content = plx_hash_add(content, plx_corpus_content(data->valid_corpus));
    return content;
}

uint64_t plx_data_train_rows(const plx_data *data)
{
    if (data->section.task != NULL) return 0;
    return data->examples != NULL ? plx_example_rows_count(data->train_rows) : plx_windows_whole(&data->train);
}
