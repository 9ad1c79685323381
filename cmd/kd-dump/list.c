/* list.c - what there is to choose from: encodings, and nodes of a teacher. */
#include "dump_cmd.h"

#include <string.h>

kd_status dump_list_encodings(kd_cli *c, kd_err *err)
{
    size_t n;
    char words[256];
    const kd_codec_info *list = kd_codec_list(&n);
    kd_table *t = kd_table_create();
    json_t *all = json_array();
    kd_table_cell(t, "encoding");
    kd_table_cell(t, "parameters");
    kd_table_cell(t, "what it is");
    kd_table_cell(t, "serves");
    kd_table_row(t);
    kd_table_cell(t, "dense");
    kd_table_cell(t, "--dtype");
    kd_table_cell(t, "every class as a number");
    kd_table_cell(t, "%s", kd_serves_text(KD_SERVES_VALUES | KD_SERVES_SOFTMAX, words, sizeof words));
    kd_table_row(t);
    for (size_t i = 0; i < n; i++) {
        kd_serves_text(list[i].serves, words, sizeof words);
        kd_table_cell(t, "%s", list[i].name);
        kd_table_cell(t, "%s", list[i].params);
        kd_table_cell(t, "%s", list[i].summary);
        kd_table_cell(t, "%s", words);
        kd_table_row(t);
        json_array_append_new(all, json_pack("{s:s, s:s, s:s, s:s, s:b}", "name", list[i].name, "params",
                                             list[i].params, "summary", list[i].summary, "serves", words,
                                             "sparse", list[i].sparse));
    }
    kd_status st = KD_OK;
    if (c->common.json)
        st = kd_cli_print_json(json_pack("{s:i, s:s, s:O}", "schema", 1, "tool", c->tool->name, "encodings",
                                         all),
                               err);
    else
        kd_table_print(t, stdout, false);
    json_decref(all);
    kd_table_free(t);
    return st;
}

kd_status dump_list_taps(kd_cli *c, const dump_opts *o, kd_err *err)
{
    kd_teacher *t;
    if (!o->teacher) return kd_fail(err, KD_EUSAGE, "--list-taps: of which teacher? --teacher FOLDER");
    kd_status st = kd_teacher_open(&t, o->teacher, 1, 1, err);
    if (st) return st;
    const kd_graph *g = kd_teacher_model(t)->graph;
    kd_table *table = kd_table_create();
    json_t *all = json_array();
    kd_table_cell(table, "node");
    kd_table_cell(table, "shape");
    kd_table_cell(table, "forms");
    kd_table_row(table);
    for (int i = 0; i < kd_graph_nodes(g); i++) {
        int64_t dims[KD_MAX_DIMS];
        kd_buf shape = {0};
        if (kd_graph_node_shown(g, i) != i) continue; // its value is never there
        const int n = kd_graph_node_shape(g, i, dims);
        json_t *list = json_array();
        for (int d = 0; d < n; d++) {
            kd_buf_printf(&shape, "%s%lld", d ? " x " : "", (long long)dims[d]);
            json_array_append_new(list, json_integer(dims[d]));
        }
        kd_table_cell(table, "%s", kd_graph_node_name(g, i));
        kd_table_cell(table, "%s", shape.text ? shape.text : "");
        kd_table_cell(table, "%s", n == 3 ? "mean max flat" : "flat");
        kd_table_row(table);
        json_array_append_new(all, json_pack("{s:s, s:o, s:b}", "node", kd_graph_node_name(g, i), "shape",
                                             list, "map", n == 3));
        kd_buf_release(&shape);
    }
    if (c->common.json)
        st = kd_cli_print_json(json_pack("{s:i, s:s, s:s, s:O}", "schema", 1, "tool", c->tool->name,
                                         "teacher", kd_teacher_name(t), "taps", all),
                               err);
    else
        kd_table_print(table, stdout, false);
    json_decref(all);
    kd_table_free(table);
    kd_teacher_close(t);
    return st;
}
