// The end of a file that instantiates the kernels for one instruction set: their table.
#pragma once

#define KERNEL_TABLE(table, title, is_supported)                                                               \
    const Kernels table = {title, is_supported, product_scratch_bytes, product_rounds, product_round, product_tasks, \
                           product_task, product_finish, matrix_row, attention_scratch_bytes, attention_write,     \
                           attention_tasks, attention_task, attention_merge};
