// The end of a file that instantiates the kernels for one instruction set: their tables.
#pragma once

#define PRODUCT_KERNELS(table)                                                                               \
    const ProductKernels table = {product_scratch_bytes, product_rounds, product_round, product_tasks, product_task, \
                                  product_finish, matrix_row};

#define ATTENTION_KERNELS(table)                                                                  \
    static const AttentionKernels table = {attention_scratch_bytes, attention_write, attention_tasks, \
                                           attention_task, attention_merge};

#define KERNEL_TABLE(table, title, is_supported, product, attention) \
    const Kernels table = {title, is_supported, &product, &attention};
