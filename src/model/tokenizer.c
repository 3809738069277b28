/* tokenizer.c - the tokenizer that belongs to a model: where it is, opened when it is first asked for. */
#include "io/files.h"
#include "model/model.h"
#include "text/tokenizer.h"

#include <string.h>

plx_status plx_model_set_tokenizer(plx_model *model, const char *name)
{
    char *copy = plx_strdup(model->context, name);
    if (copy == NULL) return PLX_ERROR_MEMORY;
    plx_model_free_tokenizer(model);
    model->tokenizer_name = copy;
    return PLX_OK;
}

void plx_model_free_tokenizer(plx_model *model)
{
    plx_tokenizer_free(model->tokenizer);
    plx_free(model->context, model->tokenizer_name);
    model->tokenizer = NULL;
    model->tokenizer_name = NULL;
}

plx_status plx_model_tokenizer(plx_model *model, plx_tokenizer **tokenizer)
{
    const char *name = model->config.tokenizer[0] != '\0' ? model->config.tokenizer : model->tokenizer_name;
    *tokenizer = NULL;
    if (name == NULL)
        return plx_fail(
            model->context, PLX_ERROR_UNSUPPORTED,
            "this model has no tokenizer (it was made for a task, or has no tokenizer.json beside it), so it "
            "can neither read nor write text");
    if (model->tokenizer == NULL) PLX_TRY(plx_tokenizer_open(model->context, name, &model->tokenizer));
    if (plx_tokenizer_vocab_size(model->tokenizer) > model->config.vocab_size)
        return plx_fail(model->context, PLX_ERROR_VALUE, "the tokenizer has %zu ids, but the model only %zu",
                        plx_tokenizer_vocab_size(model->tokenizer), model->config.vocab_size);
    *tokenizer = model->tokenizer;
    return PLX_OK;
}

plx_status plx_model_find_tokenizer(plx_model *model, const char *directory, const char *file)
{
    if (model->config.tokenizer[0] != '\0') return PLX_OK;
    if (file != NULL) return plx_model_set_tokenizer(model, file);
    char *path = plx_format(model->context, "%s/tokenizer.json", directory);
    if (path == NULL) return PLX_ERROR_MEMORY;
    plx_status status = plx_file_exists(path) ? plx_model_set_tokenizer(model, path) : PLX_OK;
    plx_free(model->context, path);
    return status;
}

plx_status plx_model_write_tokenizer(plx_model *model, const char *directory)
{
    plx_tokenizer *tokenizer;
    if (model->tokenizer_name == NULL) return PLX_OK;
    plx_status status = plx_model_tokenizer(model, &tokenizer);
    if (status == PLX_ERROR_UNSUPPORTED) { /* the weights can be used without */
        plx_log(model->context, PLX_LOG_WARNING, "no tokenizer is written: %s", plx_context_error(model->context)->message);
        return PLX_OK;
    }
    PLX_TRY(status);
    return plx_tokenizer_save(tokenizer, directory);
}
