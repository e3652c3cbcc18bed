; husk: debug registers, single step, RF, general detect (SDM 3B chapter 18)
%include "frame64.inc"

; DR7 value, clears DR6
%macro DR7_SET 1
  mov eax, 0xffff0ff0
  mov dr6, rax
  mov eax, %1
  mov dr7, rax
%endmacro
%macro DB 3                     ; name, want DR6 low bits, want RIP
  FAULT %1, 1, 0
  mov rax, dr6
  and eax, 0xe00f
  %strcat %%a %1, ": DR6"
  CHECK %%a, rax, %2
  mov rax, %3
  %strcat %%b %1, ": RIP"
  CHECK %%b, [got_rip], rax
  xor eax, eax
  mov dr7, rax
  mov eax, 0xffff0ff0
  mov dr6, rax
%endmacro
%macro STEP 0                   ; from here each instruction traps
  push qword 0x102
  popfq
%endmacro

main:
  xor eax, eax
  mov dr7, rax
  mov rax, dr7
  CHECK "DR7 bit 10 reads 1", rax, 0x400
  xor eax, eax
  mov dr6, rax
  mov rax, dr6
  and eax, 0x7ffe07f0
  CHECK "DR6 fixed bits", rax, 0x7ffe07f0
  ; --- execution breakpoint: a fault, before the instruction ---
  mov rax, .x1
  mov dr0, rax
  DR7_SET 1 << 1
  TRY
  nop
.x1:
  nop
  ENDTRY
  DB "instruction breakpoint", 1, .x1
  mov rax, .x2
  mov dr1, rax
  DR7_SET 1 << 2                ; L1
  TRY
  nop
.x2:
  ud2
  ENDTRY
  DB "instruction breakpoint before #UD", 2, .x2
  mov rax, .x3
  mov dr0, rax
  DR7_SET 2
  TRY
  mov rax, rsp
  push qword SEL_DATA
  push rax
  push qword 0x10002            ; RF
  push qword SEL_CODE64
  push qword .x3
  iretq
.x3:
  nop
  ENDTRY
  NOFAULT "RF holds an instruction breakpoint back"
  xor eax, eax
  mov dr7, rax
  ; --- data breakpoints: traps, after the instruction ---
  mov eax, scratch + 0x40
  mov dr0, rax
  DR7_SET 2 | (1 << 16) | (3 << 18)     ; write, 4 bytes
  TRY
  mov [scratch + 0x40], al
.w1:
  nop
  ENDTRY
  DB "write breakpoint", 1, .w1
  DR7_SET 2 | (1 << 16) | (3 << 18)
  TRY
  mov al, [scratch + 0x40]
  ENDTRY
  NOFAULT "a read does not meet a write breakpoint"
  TRY
  mov [scratch + 0x44], al
  mov [scratch + 0x3f], al
  ENDTRY
  NOFAULT "neighbours do not meet it"
  TRY
  mov [scratch + 0x3d], eax
.w2:
  nop
  ENDTRY
  DB "an overlapping write does", 1, .w2
  DR7_SET 2 | (3 << 16) | (1 << 18)     ; read or write, 2 bytes
  TRY
  mov al, [scratch + 0x41]
.r1:
  nop
  ENDTRY
  DB "read-write breakpoint on a read", 1, .r1
  mov eax, scratch + 0x80
  mov dr3, rax
  DR7_SET (1 << 7) | (3 << 28) | (2 << 30) ; G3, 8 bytes
  TRY
  mov al, [scratch + 0x87]
.r2:
  nop
  ENDTRY
  DB "8-byte breakpoint", 8, .r2
  DR7_SET (1 << 7) | (3 << 28) | (2 << 30)
  TRY
  push qword [scratch + 0x80]
.r3:
  nop
  ENDTRY
  DB "breakpoint on the source of push", 8, .r3
  ; --- rep string: a trap after the iteration ---
  DR7_SET 2 | (1 << 16) | (0 << 18)     ; DR0 = scratch + 0x40, one byte
  TRY
  mov edi, scratch + 0x3e
  mov ecx, 8
.rep:
  rep stosb
  ENDTRY
  mov r8, rcx
  DB "rep stosb stops at the iteration", 1, .rep
  CHECK "with RCX left", r8, 5
  ; --- MOV SS holds a data breakpoint for one instruction ---
  mov word [scratch + 0x40], SEL_DATA
  DR7_SET 2 | (3 << 16) | (1 << 18)
  TRY
  mov ss, [scratch + 0x40]
  nop
.ss1:
  nop
  ENDTRY
  DB "MOV SS delays a data breakpoint", 1, .ss1
  ; --- I/O breakpoints ---
  TRY
  mov rax, cr4
  bts rax, 3
  mov cr4, rax
  ENDTRY
  NOFAULT "CR4.DE"
  mov eax, 0x80
  mov dr2, rax
  DR7_SET (1 << 5) | (2 << 24)
  TRY
  out 0x80, al
.io:
  nop
  ENDTRY
  DB "I/O breakpoint", 4, .io
  TRY
  db 0x0f, 0x21, 0xe0           ; mov rax, dr4
  ENDTRY
  FAULT "DR4 with CR4.DE", 6, 0
  mov rax, cr4
  btr rax, 3
  mov cr4, rax
  TRY
  db 0x0f, 0x21, 0xe0
  ENDTRY
  NOFAULT "DR4 is DR6 without CR4.DE"
  ; --- general detect ---
  DR7_SET 1 << 13
  TRY
.gd:
  mov rax, dr0
  ENDTRY
  DB "general detect", 0x2000, .gd
  ; --- values ---
  TRY
  mov rax, 0x100000000
  mov dr7, rax
  ENDTRY
  FAULT "DR7 with a high bit", 13, 0
  TRY
  mov rax, 0x100000000
  mov dr6, rax
  ENDTRY
  FAULT "DR6 with a high bit", 13, 0
  ; --- single step ---
  TRY
  STEP
  nop
.s1:
  nop
  ENDTRY
  DB "single step", 0x4000, .s1
  mov rax, [got_flags]
  and eax, 0x100
  CHECK "the frame has TF", rax, 0x100
  TRY
  mov edi, scratch
  mov ecx, 3
  STEP
.s2:
  rep stosb
  ENDTRY
  mov r8, rcx
  DB "single step of rep: per iteration", 0x4000, .s2
  CHECK "single step of rep: RCX", r8, 2
  TRY
  mov eax, SEL_DATA
  STEP
  mov ss, eax
  nop
.s3:
  nop
  ENDTRY
  DB "MOV SS holds the step back", 0x4000, .s3
  TRY
  STEP
  int 0x82
.s4:
  ENDTRY
  FAULT "INT n with TF goes to its handler", 0x82, 0
  mov rax, dr6
  and eax, 0x4000
  CHECK "and the step does not arrive", rax, 0
  TRY
  mov eax, 1
  STEP
  cpuid
.s6:
  nop
  ENDTRY
  DB "step over cpuid", 0x4000, .s6
  TRY
  STEP
  jmp .s7
  nop
.s7:
  nop
  ENDTRY
  DB "step over a jump", 0x4000, .s7
  TRY
  mov rax, rsp
  push qword SEL_DATA
  push rax
  push qword 0x102
  push qword SEL_CODE64
  push qword .s8
  iretq
.s8:
  nop
.s9:
  nop
  ENDTRY
  DB "iret that sets TF steps after the next instruction", 0x4000, .s9
  TRY
  mov rax, rsp
  STEP
  ud2
  ENDTRY
  FAULT "a fault comes before the step", 6, 0
  TRY
  USER 0x102
  nop
  nop
  ENDTRY
  FAULT "single step in ring 3", 1, 0
  CHECK "single step in ring 3: CS", [got_cs], SEL_UCODE64
  xor eax, eax
  mov dr7, rax
  ret
