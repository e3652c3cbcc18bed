; husk: integer work for the CPU benchmarks: recursion, sorting, hashing, a bytecode interpreter
; Flat 64-bit code at 1 MiB; RSP is set up; ends with HLT. The result is in RAX.
bits 64
org 0x100000

%define ARRAY 0x200000
%define TABLE 0x280000
%define N 2000

start:
    mov edi, 22
    call fib
    mov r15, rax
    call sort
    add r15, rax
    call hash
    add r15, rax
    call bytecode
    add r15, rax
    mov rax, r15
    hlt

; Naive recursion: calls, stack, branches.
fib:
    cmp edi, 2
    jb .leaf
    push rbx
    push rdi
    dec edi
    call fib
    mov rbx, rax
    pop rdi
    sub edi, 2
    call fib
    add rax, rbx
    pop rbx
    ret
.leaf:
    mov eax, edi
    ret

; Insertion sort of N pseudo-random dwords: dependent loads and stores, data-dependent branches.
sort:
    mov eax, 12345
    xor ecx, ecx
.fill:
    imul eax, eax, 1103515245
    add eax, 12345
    mov [ARRAY + rcx*4], eax
    inc ecx
    cmp ecx, N
    jb .fill
    mov ecx, 1
.outer:
    mov eax, [ARRAY + rcx*4]
    mov edx, ecx
.inner:
    mov esi, [ARRAY + rdx*4 - 4]
    cmp esi, eax
    jbe .place
    mov [ARRAY + rdx*4], esi
    dec edx
    jnz .inner
.place:
    mov [ARRAY + rdx*4], eax
    inc ecx
    cmp ecx, N
    jb .outer
    mov eax, [ARRAY + N*2]
    ret

; FNV over memory with a table of counters: byte loads, multiplies, read-modify-write.
hash:
    mov r8d, 40
    mov rax, 0xcbf29ce484222325
    mov r9, 0x100000001b3
.round:
    xor ecx, ecx
.byte:
    movzx edx, byte [ARRAY + rcx]
    xor rax, rdx
    imul rax, r9
    inc dword [TABLE + rdx*4]
    add ecx, 1
    cmp ecx, N*4
    jb .byte
    dec r8d
    jnz .round
    ret

; A tiny bytecode machine: an indirect jump an operation.
bytecode:
    mov r10d, 60000
    xor eax, eax
    lea rsi, [rel program]
    lea rbx, [rel handlers]
.next:
    movzx edx, byte [rsi]
    inc rsi
    jmp [rbx + rdx*8]
op_add:
    add eax, 7
    jmp bytecode.next
op_xor:
    xor eax, 0x55AA
    jmp bytecode.next
op_shift:
    rol eax, 3
    jmp bytecode.next
op_loop:
    lea rsi, [rel program]
    dec r10d
    jnz bytecode.next
    ret
program: db 0, 1, 2, 0, 0, 2, 1, 3
align 8
handlers: dq op_add, op_xor, op_shift, op_loop
