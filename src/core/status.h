/* status.h - how the library says that something went wrong.
 *
 * Every function that can fail returns a plx_status. The text belonging to it is kept in the context
 * (plx_context_error) and says what happened, where, and what the user can do about it. The library never
 * prints and never exits. */
#ifndef PLX_CORE_STATUS_H
#define PLX_CORE_STATUS_H

#include "plexus.h"

/* Records an error in the context and returns its code: `return plx_fail(context, PLX_ERROR_FILE, "...")`.
 * The message is one line, without a full stop at its end, and names the remedy. */
#define plx_fail(context, code, ...) plx_fail_at((context), (code), __FILE__, __LINE__, __VA_ARGS__)
plx_status plx_fail_at(plx_context *context, plx_status code, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Puts "PREFIX: " before the message of an error already recorded; returns its code unchanged. */
plx_status plx_fail_prefix(plx_context *context, plx_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Returns from the calling function when the expression fails. */
#define PLX_TRY(expression)                                                                                  \
    do {                                                                                                     \
        plx_status plx_try_status_ = (expression);                                                           \
        if (plx_try_status_ != PLX_OK) return plx_try_status_;                                               \
    } while (0)

/* The same for functions that clean up: stores the status in `status` and jumps to `label`. */
#define PLX_TRY_GOTO(status, label, expression)                                                              \
    do {                                                                                                     \
        (status) = (expression);                                                                             \
        if ((status) != PLX_OK) goto label;                                                                  \
    } while (0)

#endif
