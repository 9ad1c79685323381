/* lists.c - what can be asked without a store: the objectives, and the keys of a student's YAML.
 *
 * Both print the tables that the parsers use; nothing about an objective or a key is written here.
 */
#include "train_cmd.h"

#include <string.h>

void train_list_losses(void)
{
    char needs[160];
    const char *sets, *preset;
    const kd_objective *o;
    for (size_t i = 0; (o = kd_loss_list(i)); i++)
        printf("%s\n    %s\n    needs: %s\n    keys:  weight=1%s%s\n    from:  %s\n", o->name, o->formula,
               kd_loss_needs_text(o->needs, needs, sizeof(needs)), *o->keys ? "," : "", o->keys, o->source);
    for (size_t i = 0; (preset = kd_loss_preset(i, &sets)); i++) {
        printf("preset %s\n", preset);
        for (const char *line = sets; *line; line += strcspn(line, "\n") + 1)
            printf("    %.*s\n", (int)strcspn(line, "\n"), line);
    }
}

static void list_table(const kd_option *o, size_t n)
{
    char expects[256];
    for (size_t i = 0; i < n; i++)
        printf("%s\n    %s [%s]; %s\n", o[i].key, o[i].help, o[i].value ? o[i].value : "none",
               kd_option_expects(&o[i], expects, sizeof(expects)));
}

void train_list_keys(void)
{
    list_table(kd_student_options, kd_student_options_n);
    list_table(kd_view_options, kd_view_options_n);
    list_table(kd_model_options, kd_model_options_n);
    list_table(kd_loss_options, kd_loss_options_n);
    list_table(kd_train_options, kd_train_options_n);
}
