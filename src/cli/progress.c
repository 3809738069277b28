#include "cli/progress.h"

#include "cli/live.h"

#include <math.h>
#include <stdio.h>
#include <string.h>


/* The same words live and plain, with a bar before them when live. */
static void describe_step(const cli_run_view *view, const plx_run_event *event, bool bar, char line[CLI_LINE_BYTES])
{
    char words[CLI_LINE_BYTES / 2], peak[32] = "", rate[32], left[32];
    if (event->peak_fraction > 0) snprintf(peak, sizeof peak, "  %.0f%% peak", 100 * event->peak_fraction);
    snprintf(words, sizeof words, "loss %.4f  lr %.1e  |g| %.2f  %s tok/s%s  %s left", event->loss, event->lr,
             event->grad_norm, cli_count_text(event->tokens_per_second, rate), peak,
             cli_time_text(event->seconds_left, left));
    snprintf(line, CLI_LINE_BYTES, "%sstep %zu/%zu  ", view->label, event->step, event->steps);
    if (bar) {
        cli_put_bar(line, (double)event->step / (double)event->steps,
                    cli_live_width() - (int)(strlen(line) + strlen(words)) - 1);
    }
    size_t used = strlen(line);
    snprintf(line + used, CLI_LINE_BYTES - used, "%s", words);
}

static void show_step(cli_run_view *view, const plx_run_event *event)
{
    char line[CLI_LINE_BYTES];
    const double since = cli_seconds() - view->drawn;
    const bool end = event->step == event->steps, first = view->last.step == 0;
    view->last = *event;
    if (view->live) {
        if (since < CLI_LIVE_PAUSE && !end) return;
        describe_step(view, event, true, line);
        cli_live_draw(view->cli, line);
        view->drawn = cli_seconds();
    } else if (since >= CLI_PLAIN_PAUSE || end || first) {
        describe_step(view, event, false, line);
        cli_print(view->cli, "%s\n", line);
        cli_flush(view->cli);
        view->drawn = cli_seconds();
    }
}

static void show_evaluation(cli_run_view *view, const plx_run_event *event)
{
    cli_live_wipe(view->cli);
    cli_print(view->cli, "%sstep %zu/%zu  validation loss %.4f", view->label, event->step, event->steps,
              event->valid_loss);
    if (event->valid_bits_per_byte >= 0) cli_print(view->cli, "  %.4f bits per byte", event->valid_bits_per_byte);
    if (event->valid_accuracy >= 0) cli_print(view->cli, "  accuracy %.4f", event->valid_accuracy);
    cli_print(view->cli, "\n");
    cli_flush(view->cli);
}

static void show_sample(cli_run_view *view, const plx_run_event *event)
{
    cli_live_wipe(view->cli);
    cli_print(view->cli, "---- a sample after step %zu ----\n", event->step);
    /* Printable or harmless bytes only: an untrained model writes control characters too. */
    for (const char *c = event->text; *c != '\0'; c++) {
        bool shown = (unsigned char)*c >= ' ' || *c == '\n' || *c == '\t';
        cli_write(view->cli, shown && *c != 127 ? c : "?", 1);
    }
    cli_print(view->cli, "\n----\n");
    cli_flush(view->cli);
}

/* ---- JSON ---- */

json_t *cli_run_event_json(const plx_run_event *event)
{
    switch (event->kind) {
    case PLX_RUN_STARTED:
        return json_pack("{s:s, s:I, s:I, s:s}", "event", "started", "step", (json_int_t)event->step, "steps",
                         (json_int_t)event->steps, "text", event->text);
    case PLX_RUN_STEP:
        return json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "event", "step",
                         "step", (json_int_t)event->step, "steps", (json_int_t)event->steps, "tokens",
                         (json_int_t)event->tokens, "loss", event->loss, "lr", event->lr, "grad_norm", event->grad_norm,
                         "tokens_per_second", event->tokens_per_second, "peak_fraction", event->peak_fraction,
                         "seconds", event->seconds, "seconds_left", event->seconds_left);
    case PLX_RUN_EVALUATED: {
        json_t *object =
            json_pack("{s:s, s:I, s:o}", "event", "evaluated", "step", (json_int_t)event->step, "valid_loss",
                      cli_json_number(event->valid_loss));
        if (event->valid_bits_per_byte >= 0)
            json_object_set_new(object, "valid_bits_per_byte", json_real(event->valid_bits_per_byte));
        if (event->valid_accuracy >= 0) json_object_set_new(object, "valid_accuracy", json_real(event->valid_accuracy));
        return object;
    }
    case PLX_RUN_SAVED:
        return json_pack("{s:s, s:I, s:s}", "event", "saved", "step", (json_int_t)event->step, "path", event->text);
    case PLX_RUN_SAMPLE:
        return json_pack("{s:s, s:I, s:o}", "event", "sample", "step", (json_int_t)event->step, "text",
                         cli_json_text(event->text, strlen(event->text)));
    }
    return NULL;
}

/* ---- the view ---- */

void cli_run_view_begin(cli_run_view *view, plx_cli *cli, const char *name)
{
    *view = (cli_run_view){.cli = cli, .live = !cli->json && cli_live(cli)};
    if (name != NULL) snprintf(view->label, sizeof view->label, "%s: ", name);
}

void cli_run_view_event(void *user, const plx_run_event *event)
{
    cli_run_view *view = user;
    if (view->cli->json) {
        cli_json(view->cli, cli_run_event_json(event));
        return;
    }
    if (view->cli->quiet) return;
    switch (event->kind) {
    case PLX_RUN_STARTED:
        cli_live_wipe(view->cli);
        cli_print(view->cli, "%s%s\n", view->label, event->text);
        cli_flush(view->cli);
        break;
    case PLX_RUN_STEP: show_step(view, event); break;
    case PLX_RUN_EVALUATED: show_evaluation(view, event); break;
    case PLX_RUN_SAMPLE: show_sample(view, event); break;
    case PLX_RUN_SAVED: break; /* the end of the run says where it is */
    }
}

void cli_run_view_end(cli_run_view *view)
{
    cli_live_wipe(view->cli);
}
