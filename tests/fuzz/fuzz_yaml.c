/* fuzz_yaml.c - a configuration as YAML: the real tables of data and views, and an option of every type. */
#include "fuzz.h"
#include "kd/data.h"

typedef struct every {
    bool truth;
    int64_t whole;
    double real;
    char *text, *choice;
    kd_ints wholes;
    kd_reals reals;
    kd_strings texts;
} every;

static const kd_option rows[] = {
    KD_OPT_BOOL("T", every, truth, "train.nesterov", 0, "off", "truth"),
    KD_OPT_INT("T", every, whole, "train.epochs", "N", 0, "10", 1, 1e6, "whole"),
    KD_OPT_REAL("T", every, real, "train.lr", "X", 0, "0.001", 1e-12, 100, "real"),
    KD_OPT_STRING("T", every, text, "name", "S", 0, NULL, "text"),
    KD_OPT_CHOICE("T", every, choice, "train.schedule", 0, "cosine", "constant|cosine|linear", "choice"),
    KD_OPT_INTS("T", every, wholes, "loss.layers", "N", 0, "1-3", -10, 1000, "wholes"),
    KD_OPT_REALS("T", every, reals, "loss.temperature", "X", 0, "1", 0, 100, "reals"),
    KD_OPT_STRINGS("T", every, texts, "teachers", "S", 0, NULL, "texts"),
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    every e;
    kd_data_spec d;
    kd_view_spec v;
    kd_config c = {0};
    kd_err err = {0};
    MUST(!kd_config_add(&c, rows, KD_COUNT(rows), &e, &err));
    MUST(!kd_config_add(&c, kd_data_options, kd_data_options_n, &d, &err));
    MUST(!kd_config_add(&c, kd_view_options, kd_view_options_n, &v, &err));
    if (!kd_config_yaml_text(&c, "fuzz.yaml", (const char *)data, size, &err)) {
        json_t *o = kd_config_json(&c);
        MUST(o && e.whole >= 1 && e.whole <= 1000000 && e.choice);
        MUST(!kd_config_from_json(&c, o, "its own JSON", &err));
        json_decref(o);
    } else {
        MUST(*err.msg);
    }
    kd_config_release(&c);
    return 0;
}
