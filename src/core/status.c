/* status.c - recording errors in a context. */
#include "core/status.h"

#include "core/context.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *plx_status_name(plx_status status)
{
    static const char *const names[] = {
#define PLX_STATUS_TEXT(name, text) #name,
        PLX_STATUS_LIST(PLX_STATUS_TEXT)
#undef PLX_STATUS_TEXT
    };
    size_t index = (size_t)status;
    return index < sizeof names / sizeof names[0] ? names[index] : "ERROR_INTERNAL";
}

/* Messages quote what files and users wrote: keep them on one line, and whole characters where they were cut. */
static void make_presentable(char *message, size_t capacity)
{
    size_t length = strlen(message);
    if (length == capacity - 1) {
        size_t tail = length;
        while (tail > 0 && ((unsigned char)message[tail - 1] & 0xC0) == 0x80) tail--;
        if (tail > 0 && (unsigned char)message[tail - 1] >= 0xC0) message[tail - 1] = '\0';
    }
    for (char *c = message; *c != '\0'; c++)
        if ((unsigned char)*c < 32 || *c == 127) *c = '?';
}

plx_status plx_fail_at(plx_context *context, plx_status code, const char *file, int line, const char *format, ...)
{
    if (context == NULL) return code;
    plx_error *error = &context->error;
    char message[sizeof error->message]; /* the arguments may point into the old message */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    make_presentable(message, sizeof message);
    error->code = code;
    memcpy(error->message, message, sizeof message);
    snprintf(error->where, sizeof error->where, "%s:%d", file, line);
    return code;
}

plx_status plx_fail_prefix(plx_context *context, plx_status code, const char *format, ...)
{
    if (context == NULL) return code;
    char *message = context->error.message;
    const size_t capacity = sizeof context->error.message;
    char prefix[sizeof context->error.message / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(prefix, sizeof prefix - 2, format, arguments);
    va_end(arguments);
    strcat(prefix, ": ");
    size_t length = strlen(prefix);
    memmove(message + length, message, capacity - length);
    memcpy(message, prefix, length);
    message[capacity - 1] = '\0';
    make_presentable(message, capacity);
    return code;
}
