/* progress.h - shows a training run while it goes: a live line on a terminal, plain lines now and then elsewhere, or
 * one JSON object an event (--json). */
#ifndef PLX_CLI_PROGRESS_H
#define PLX_CLI_PROGRESS_H

#include "cli/cli.h"

typedef struct cli_run_view {
    plx_cli *cli;
    char label[64];      /* "NAME: " before every line, where several runs are shown; else "" */
    bool live;           /* stderr is a terminal and the line may move */
    double drawn;        /* when the live line or the last plain line was written, seconds */
    plx_run_event last;  /* the newest step */
} cli_run_view;

/* name: NULL for a single run. */
void cli_run_view_begin(cli_run_view *view, plx_cli *cli, const char *name);
/* For plx_run_options.event, with the view as user. */
void cli_run_view_event(void *view, const plx_run_event *event);
/* Wipes the live line. */
void cli_run_view_end(cli_run_view *view);

/* One JSON object for an event; a new reference, NULL when memory is short. */
json_t *cli_run_event_json(const plx_run_event *event);

#endif
