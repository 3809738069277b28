/* fields.h - reading the fields of a tokenizer.json with messages that name file and field. Private to src/text. */
#ifndef PLX_TEXT_FIELDS_H
#define PLX_TEXT_FIELDS_H

#include "core/context.h"

#include <jansson.h>

#define PLX_PLACE_BYTES 160
/* Where in which file a value is. */
typedef struct plx_place {
    plx_context *context;
    const char *file;
    char path[PLX_PLACE_BYTES]; /* "pre_tokenizer.pretokenizers[1]"; "" at the top */
} plx_place;

/* The place of a value inside: `name` is printf's, ".key" or "[3]". */
plx_place plx_place_in(const plx_place *place, const char *name, ...) __attribute__((format(printf, 2, 3)));
/* "FILE: PATH.KEY: MESSAGE"; key may be NULL. Returns the code. */
plx_status plx_place_fail(const plx_place *place, plx_status code, const char *key, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Each leaves *value alone where the key is absent or null, and fails on another type. */
plx_status plx_field_bool(const plx_place *place, json_t *object, const char *key, bool *value);
plx_status plx_field_size(const plx_place *place, json_t *object, const char *key, size_t *value);
plx_status plx_field_string(const plx_place *place, json_t *object, const char *key, const char **value);
plx_status plx_field_list(const plx_place *place, json_t *object, const char *key, json_t **value);
plx_status plx_field_object(const plx_place *place, json_t *object, const char *key, json_t **value);
/* The index in "a|b|c" of the string at the key; unknown ones are refused. */
plx_status plx_field_choice(const plx_place *place, json_t *object, const char *key, const char *choices, int *value);
/* The object's "type" as an index in the choices. An unknown one is refused by name. */
plx_status plx_field_type(const plx_place *place, json_t *object, const char *choices, int *type);
/* Refuses an object that is none, or that has a key beside "a|b|c": what it means is not known. */
plx_status plx_field_known(const plx_place *place, json_t *object, const char *keys);

/* Reads the members of a Sequence, {"type": "Sequence", KEY: [...]}, one after the other; `depth` is its own. One in more
 * than 16 others is refused, which ends the recursion of a file made to exhaust the stack. */
typedef plx_status (*plx_field_read)(void *user, const plx_place *place, json_t *object, int depth);
plx_status plx_field_sequence(const plx_place *place, json_t *object, const char *key, plx_field_read read, void *user,
                              int depth);

#endif
