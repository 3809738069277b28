/* section.h - the recipe's data section, read and checked, no file touched. */
#ifndef PLX_DATA_SECTION_H
#define PLX_DATA_SECTION_H

#include "data/data.h"
#include "io/text_reader.h"

typedef struct plx_data_section {
    plx_context *context;
    plx_data_description about;
    /* text; strings are the recipe's tree */
    const char **train, **valid;
    size_t train_count, valid_count;
    double valid_fraction;
    plx_text_options text;
    const char *tokenizer;
    /* instruction data: conversations instead of texts */
    bool conversations;
    const char *chat_template; /* NULL: the tokenizer's */
    const char *system;        /* NULL: the template's own, if it has one */
    /* a task */
    const plx_task *task;
    void *task_options;
    size_t valid_rows;
} plx_data_section;

/* Errors: ERROR_VALUE or ERROR_FORMAT placed at the key. Released by plx_data_section_release, also after an error. */
plx_status plx_data_section_read(plx_context *context, const plx_node *map, plx_data_section *section);
void plx_data_section_release(plx_data_section *section);

#endif
