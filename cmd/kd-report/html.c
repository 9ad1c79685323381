/* html.c - the page: escaping, head, sections, tables.
 *
 * The page needs nothing but itself: no script, no font, no network, and a policy in its head that forbids
 * them. So even a text that came through unescaped could not act.
 */
#include "report_cmd.h"

#include <string.h>

void html_text(kd_buf *b, const char *text)
{
    for (const char *s = text; *s; s++) {
        switch (*s) {
        case '&': kd_buf_puts(b, "&amp;"); break;
        case '<': kd_buf_puts(b, "&lt;"); break;
        case '>': kd_buf_puts(b, "&gt;"); break;
        case '"': kd_buf_puts(b, "&quot;"); break;
        case '\'': kd_buf_puts(b, "&#39;"); break;
        default:
            if ((unsigned char)*s < 0x20 && *s != '\n' && *s != '\t')
                kd_buf_puts(b, "?");
            else
                kd_buf_append(b, s, 1);
        }
    }
}

/* The marker that gnuplot's plots refer to: a filled circle. */
static const char markers[] = "<svg width=0 height=0 style=\"position:absolute\" aria-hidden=true><defs>"
                              "<circle id=gpPt6 r=1 fill=currentColor /></defs></svg>\n";

void html_head(report *r, const char *title)
{
    kd_buf *b = &r->page;
    kd_buf_puts(
        b, "<!DOCTYPE html>\n<html lang=en>\n<meta charset=utf-8>\n"
           "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; style-src "
           "'unsafe-inline'\">\n"
           "<meta name=viewport content=\"width=device-width,initial-scale=1\">\n"
           "<meta name=generator content=\"kd-report " KD_VERSION "\">\n<title>");
    html_text(b, title);
    kd_buf_puts(b, "</title>\n<style>\n");
    kd_buf_puts(b, html_style);
    kd_buf_puts(b, "</style>\n<link rel=icon href=\"data:,\">\n<body>\n");
    kd_buf_puts(b, markers);
}

void html_section(report *r, const char *id, const char *heading, const char *lead)
{
    kd_buf_printf(&r->page, "</section>\n<section id=%s", id);
    if (r->runs > 1) kd_buf_printf(&r->page, "-%d", r->runs);
    kd_buf_printf(&r->page, ">\n<h2>%s</h2>\n", heading);
    if (lead) kd_buf_printf(&r->page, "<p class=lead>%s</p>\n", lead);
}

void html_end(report *r)
{
    kd_buf_puts(&r->page,
                "</section>\n</main>\n<footer>Made by kd-report " KD_VERSION
                ". Everything on this page is in this file; it loads nothing.</footer>\n</body>\n</html>\n");
}

void html_table(report *r, const char *label, const char *kind)
{
    kd_buf_puts(&r->page, "<div class=scroll role=region tabindex=0 aria-label=\"");
    html_text(&r->page, label);
    kd_buf_printf(&r->page, "\"><table class=\"%s\">\n", kind);
}

void html_table_end(report *r) { kd_buf_puts(&r->page, "</tbody></table></div>\n"); }
