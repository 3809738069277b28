/* report.c - a comparison as one HTML file: tables, loss curves (SVG, drawn by gnuplot), samples. It opens without a
 * network: no script, no link, no font is fetched. */
#include "lab/compare.h"

#include "io/files.h"
#include "lab/html.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void put_metric(FILE *out, double mean, double spread, size_t runs, bool best)
{
    fprintf(out, "<td%s>", best ? " class=best" : "");
    if (mean < 0) fputs("&ndash;", out);
    else fprintf(out, runs > 1 ? "%.3f &plusmn; %.3f" : "%.3f", mean, spread);
    fputs("</td>", out);
}

static void put_table(FILE *out, const plx_comparison *comparison, size_t group)
{
    bool task = comparison->groups[group].task;
    double best = task ? -1 : 1e300;
    for (size_t i = 0; i < comparison->row_count; i++) {
        const plx_compare_row *row = &comparison->rows[i];
        if (row->group != group) continue;
        if (task ? row->accuracy > best : row->bits >= 0 && row->bits < best) best = task ? row->accuracy : row->bits;
    }
    fputs("<table><tr><th>model</th><th>parameters</th><th>flops a "
          "token</th><th>tokens/s</th><th>lr</th><th>steps</th><th>validation loss</th>",
          out);
    fputs(task ? "<th>accuracy</th></tr>" : "<th>bits per byte</th></tr>", out);
    for (size_t i = 0; i < comparison->row_count; i++) {
        const plx_compare_row *row = &comparison->rows[i];
        if (row->group != group) continue;
        fputs("<tr><td>", out);
        plx_html_text(out, row->name);
        fprintf(out, "</td><td>%zu</td><td>%.3g M</td>", row->parameters, row->flops_per_token / 1e6);
        if (row->tokens_per_second < 0) fputs("<td>&ndash;</td>", out);
        else fprintf(out, "<td>%.0f</td>", row->tokens_per_second);
        fprintf(out, "<td>%g</td><td>%zu</td>", row->lr, row->steps);
        put_metric(out, row->loss, row->loss_spread, row->runs, false);
        if (task) put_metric(out, row->accuracy, row->accuracy_spread, row->runs, row->accuracy == best);
        else put_metric(out, row->bits, row->bits_spread, row->runs, row->bits == best);
        fputs("</tr>\n", out);
    }
    fputs("</table>\n", out);
    if (task) fprintf(out, "<p class=note>Chance: %.3f.</p>\n", comparison->groups[group].chance);
}

/* Loss by step of one run, as gnuplot's inline data; training losses are averaged over windows of steps. */
static plx_status put_curve(plx_context *context, FILE *out, const char *directory)
{
    char *path = plx_format(context, "%s/metrics.jsonl", directory), *text = NULL;
    size_t bytes;
    plx_status status = path != NULL ? plx_file_read(context, path, (size_t)256 << 20, &text, &bytes)
                                     : plx_context_error(context)->code;
    plx_free(context, path);
    PLX_TRY(status);
    size_t lines = 0, in_window = 0, window;
    double sum = 0, step = 0;
    for (const char *p = text; *p != '\0'; p++) lines += *p == '\n';
    window = lines / 200 + 1;
    char *rest;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        json_t *event = json_loads(line, 0, NULL);
        const json_t *loss = json_object_get(event, "loss");
        if (json_is_number(loss)) {
            sum += json_number_value(loss);
            step = json_number_value(json_object_get(event, "step"));
            if (++in_window == window) {
                fprintf(out, "%.0f %.6f\n", step, sum / (double)in_window);
                sum = 0;
                in_window = 0;
            }
        }
        json_decref(event);
    }
    if (in_window > 0) fprintf(out, "%.0f %.6f\n", step, sum / (double)in_window);
    plx_free(context, text);
    return PLX_OK;
}

static plx_status put_plot_script(const plx_comparison *comparison, size_t group, const char *path)
{
    plx_context *context = comparison->context;
    FILE *out = fopen(path, "w");
    if (out == NULL) return plx_fail(context, PLX_ERROR_FILE, "%s cannot be written; is the directory writable?", path);
    plx_status status = PLX_OK;
    for (size_t i = 0; i < comparison->row_count && status == PLX_OK; i++) {
        const plx_compare_row *row = &comparison->rows[i];
        if (row->group != group) continue;
        fprintf(out, "$curve%zu << EOD\n", i);
        status = put_curve(context, out, comparison->runs[row->first_run].directory);
        fputs("EOD\n", out);
    }
    fputs("set terminal svg size 900,480 dynamic noenhanced font 'sans-serif,14'\nset grid lc rgb '#dddddd'\n"
          "set xlabel 'step'\nset ylabel 'training loss (nats a token)'\nset key top right\nplot ", out);
    bool first = true;
    for (size_t i = 0; i < comparison->row_count; i++) {
        if (comparison->rows[i].group != group) continue;
        fprintf(out, "%s$curve%zu using 1:2 with lines lw 2 title '", first ? "" : ", ", i);
        for (const char *p = comparison->rows[i].name; *p != '\0'; p++)
            fputc(*p == '\'' || *p == '\\' || *p < ' ' ? '_' : *p, out);
        fputs("'", out);
        first = false;
    }
    fputs("\n", out);
    if (fclose(out) != 0 && status == PLX_OK)
        status = plx_fail(context, PLX_ERROR_FILE, "%s cannot be written; is the disk full?", path);
    return status;
}

/* Runs gnuplot on a script with its standard output going to a file. Its absence is no error: false. */
static bool run_gnuplot(const char *script, const char *svg)
{
    char *arguments[] = {(char *)"gnuplot", (char *)(uintptr_t)script, NULL};
    posix_spawn_file_actions_t actions;
    pid_t child;
    int result = -1;
    if (posix_spawn_file_actions_init(&actions) != 0) return false;
    bool ready =
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, svg, O_WRONLY | O_CREAT | O_TRUNC, 0644) == 0 &&
        posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0) == 0;
    if (ready && posix_spawnp(&child, "gnuplot", &actions, NULL, arguments, environ) == 0)
        while (waitpid(child, &result, 0) < 0 && errno == EINTR) continue;
    posix_spawn_file_actions_destroy(&actions);
    return WIFEXITED(result) && WEXITSTATUS(result) == 0;
}

static plx_status put_plot(FILE *out, const plx_comparison *comparison, size_t group, const char *path)
{
    plx_context *context = comparison->context;
    char *script = plx_format(context, "%s.%zu.gnuplot", path, group),
         *svg = plx_format(context, "%s.%zu.svg", path, group), *text = NULL;
    size_t bytes;
    plx_status status =
        script != NULL && svg != NULL ? put_plot_script(comparison, group, script) : plx_context_error(context)->code;
    bool drawn = status == PLX_OK && run_gnuplot(script, svg);
    if (status == PLX_OK && drawn) status = plx_file_read(context, svg, (size_t)64 << 20, &text, &bytes);
    if (status == PLX_OK && drawn) {
        const char *start = strstr(text, "<svg");
        fputs(start != NULL ? start : "", out);
    } else if (status == PLX_OK)
        fputs("<p class=note>Loss curves need gnuplot (Debian package gnuplot-nox), which did not run here.</p>\n",
              out);
    if (script != NULL) unlink(script);
    if (svg != NULL) unlink(svg);
    plx_free(context, text);
    plx_free(context, script);
    plx_free(context, svg);
    return status;
}

static void put_samples(FILE *out, const plx_comparison *comparison, size_t group)
{
    bool title = false;
    for (size_t i = 0; i < comparison->row_count; i++) {
        const plx_compare_row *row = &comparison->rows[i];
        const char *sample = comparison->runs[row->first_run].sample;
        if (row->group != group || sample == NULL) continue;
        if (!title) fputs("<h3>What each model writes</h3>\n", out);
        title = true;
        fputs("<h4>", out);
        plx_html_text(out, row->name);
        fputs("</h4><pre>", out);
        plx_html_text(out, sample);
        fputs("</pre>\n", out);
    }
}

static plx_status put_report(FILE *out, const plx_comparison *comparison, const char *path, const char *command)
{
    size_t seeds = comparison->row_count > 0 ? comparison->rows[0].runs : 0;
    plx_html_begin(out, "Plexus comparison");
    fputs("<p>Made by</p><pre>", out);
    plx_html_text(out, command);
    fprintf(out,
            "</pre>\n<p>%zu seed%s a model%s. Plexus %s. Flops are those of the forward pass; training takes about "
            "three times as many.</p>\n",
            seeds, seeds == 1 ? "" : "s", seeds > 1 ? ": mean &plusmn; standard deviation over seeds" : "",
            PLX_VERSION);
    for (size_t group = 0; group < comparison->group_count; group++) {
        fputs(comparison->groups[group].task ? "<h2>Task " : "<h2>", out);
        plx_html_text(out, comparison->groups[group].title);
        fputs("</h2>\n", out);
        put_table(out, comparison, group);
        PLX_TRY(put_plot(out, comparison, group, path));
        put_samples(out, comparison, group);
    }
    fputs("</html>\n", out);
    return PLX_OK;
}

plx_status plx_report_write(const plx_comparison *comparison, const char *path, const char *command)
{
    plx_context *context = comparison->context;
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL) return plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the report");
    plx_status status = put_report(out, comparison, path, command);
    if (fclose(out) != 0 && status == PLX_OK)
        status = plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the report");
    if (status == PLX_OK) status = plx_file_write(context, path, text, bytes);
    free(text);
    return status;
}
