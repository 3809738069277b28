/* section.c - reading the recipe's data section. */
#include "data/section.h"

#include "text/chat.h"

#include <stdio.h>
#include <string.h>

#define PLX_SEQUENCE_MOST ((size_t)1 << 20)

/* A list of file names, or one name. The array is the section's, the names the tree's. */
static plx_status read_files(plx_keys *keys, const char *key, const char ***files, size_t *count)
{
    const plx_node *node = plx_keys_node(keys, key);
    if (node == NULL || node->kind == PLX_NODE_NULL) return PLX_OK;
    bool list = node->kind == PLX_NODE_LIST;
    size_t most = list ? node->count : 1;
    if (most == 0) return PLX_OK;
    *files = plx_alloc_array(keys->context, most, sizeof **files);
    if (*files == NULL) return PLX_ERROR_MEMORY;
    for (const plx_node *item = list ? node->child : node; item != NULL; item = list ? item->next : NULL) {
        if (item->kind != PLX_NODE_STRING || item->text[0] == '\0')
            return plx_keys_fail(keys, key, "must be a file's name or a list of them (a number is put in quotes)");
        (*files)[(*count)++] = item->text;
    }
    return PLX_OK;
}

static plx_status read_documents(plx_keys *keys, plx_data_section *section)
{
    PLX_TRY(plx_keys_string(keys, "text_field", &section->text.field));
    PLX_TRY(plx_keys_string(keys, "document_separator", &section->text.separator));
    if (section->text.separator != NULL &&
        (section->text.separator[0] == '\0' || strpbrk(section->text.separator, "\r\n")))
        return plx_keys_fail(keys, "document_separator", "must be the text of one line");
    return PLX_OK;
}

static plx_status read_conversations(plx_keys *keys, plx_data_section *section)
{
    PLX_TRY(plx_keys_string(keys, "chat_template", &section->chat_template));
    PLX_TRY(plx_keys_string(keys, "system", &section->system));
    if (section->chat_template != NULL && plx_chat_find(section->chat_template) == NULL)
        return plx_keys_fail(keys, "chat_template", "there is no template '%.40s'; there are %s", section->chat_template,
                             plx_chat_names());
    return PLX_OK;
}

static plx_status read_text(plx_keys *keys, plx_data_section *section)
{
    plx_data_description *about = &section->about;
    section->valid_fraction = 0.05;
    section->tokenizer = "bytes";
    about->sequence_length = 256;
    about->chance = -1.0;
    int format = 0;
    PLX_TRY(plx_keys_choice(keys, "format", "text|conversations", &format));
    section->conversations = format == 1;
    PLX_TRY(read_files(keys, "train", &section->train, &section->train_count));
    if (section->train_count == 0) return plx_keys_fail(keys, "train", "name at least one text file, or give a task");
    PLX_TRY(read_files(keys, "valid", &section->valid, &section->valid_count));
    PLX_TRY(plx_keys_real(keys, "valid_fraction", &section->valid_fraction, 0.0, 0.9));
    if (section->valid_count > 0) {
        if (plx_keys_has(keys, "valid_fraction") && section->valid_fraction > 0.0)
            return plx_keys_fail(keys, "valid_fraction", "the valid files are held out: leave it out or set it to 0");
        section->valid_fraction = 0.0;
    }
    PLX_TRY(plx_keys_size(keys, "sequence_length", &about->sequence_length, 1, PLX_SEQUENCE_MOST));
    if (section->conversations) PLX_TRY(read_conversations(keys, section));
    else PLX_TRY(read_documents(keys, section));
    PLX_TRY(plx_keys_string(keys, "tokenizer", &section->tokenizer));

    plx_tokenizer *tokenizer;
    plx_status status = plx_tokenizer_open(keys->context, section->tokenizer, &tokenizer);
    if (status == PLX_ERROR_VALUE)
        return plx_keys_fail(keys, "tokenizer",
                             "unknown tokenizer '%.64s'; there is: bytes, or the path of a tokenizer.json, of a directory "
                             "with one, or of a GGUF",
                             section->tokenizer);
    PLX_TRY(status);
    about->vocab_size = plx_tokenizer_vocab_size(tokenizer);
    about->separator = about->end = plx_tokenizer_separator(tokenizer);
    if (section->conversations && plx_tokenizer_eos(tokenizer) >= 0) about->end = plx_tokenizer_eos(tokenizer);
    plx_tokenizer_free(tokenizer);
    if (about->separator < 0 && !section->conversations)
        return plx_keys_fail(keys, "tokenizer",
                             "'%.200s' names no token that begins a document: give a bos_token in a tokenizer_config.json "
                             "beside it",
                             section->tokenizer);
    if (strlen(section->tokenizer) >= sizeof about->tokenizer) return plx_keys_fail(keys, "tokenizer", "the path is too long");
    snprintf(about->tokenizer, sizeof about->tokenizer, "%s", section->tokenizer);
    return PLX_OK;
}

static plx_status read_task(plx_keys *keys, plx_data_section *section)
{
    const char *name = NULL;
    char known[512] = "";
    plx_data_description *about = &section->about;
    PLX_TRY(plx_keys_string(keys, "task", &name));
    for (size_t i = 0; plx_tasks[i] != NULL; i++) {
        if (strcmp(plx_tasks[i]->name, name) == 0) section->task = plx_tasks[i];
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "", plx_tasks[i]->name);
    }
    if (section->task == NULL) return plx_keys_fail(keys, "task", "unknown task '%.64s'; there are: %s", name, known);
    section->valid_rows = 256;
    PLX_TRY(plx_keys_size(keys, "valid_rows", &section->valid_rows, 0, (size_t)1 << 32));
    section->task_options = plx_alloc(keys->context, section->task->options_size);
    if (section->task_options == NULL) return PLX_ERROR_MEMORY;
    PLX_TRY(section->task->parse(keys, section->task_options));
    about->task = true;
    about->separator = about->end = -1;
    section->task->describe(section->task_options, &about->vocab_size, &about->sequence_length, &about->chance);
    return PLX_OK;
}

plx_status plx_data_section_read(plx_context *context, const plx_node *map, plx_data_section *section)
{
    plx_keys keys;
    *section = (plx_data_section){.context = context};
    PLX_TRY(plx_keys_open(&keys, context, map, "data"));
    if (plx_keys_has(&keys, "task"))
        PLX_TRY(read_task(&keys, section));
    else
        PLX_TRY(read_text(&keys, section));
    return plx_keys_close(&keys);
}

void plx_data_section_release(plx_data_section *section)
{
    plx_free(section->context, section->train);
    plx_free(section->context, section->valid);
    plx_free(section->context, section->task_options);
    *section = (plx_data_section){.context = section->context};
}

plx_status plx_data_describe(plx_context *context, const plx_node *section, plx_data_description *description)
{
    plx_data_section read;
    plx_status status = plx_data_section_read(context, section, &read);
    if (status == PLX_OK) *description = read.about;
    plx_data_section_release(&read);
    return status;
}
