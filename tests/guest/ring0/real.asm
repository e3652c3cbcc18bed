; husk: real mode: IVT, limits, wrap-around, unreal mode, exceptions, far calls (SDM 3A chapter 20; 3A 9.9)
%include "layout.inc"
MULTIBOOT
; The 32-bit entry copies the 16-bit program to linear 0x20000 and leaves protected mode for it.
entry:
  cli
  cld
  mov al, 0xff
  out 0x21, al
  out 0xa1, al
  mov esi, section.real.start
  mov edi, 0x20000
  mov ecx, program_end
  rep movsb
  lgdt [gdt_pointer]
  lidt [ivt_pointer]
  jmp SEL_CODE16:.at16 - image_start
.at16:
  bits 16
  mov ax, SEL_DATA16
  mov ds, ax
  mov es, ax
  mov fs, ax
  mov gs, ax
  mov ss, ax
  mov eax, cr0
  and al, 0xfe
  mov cr0, eax
  jmp 0x2000:0
  bits 32
  align 8
gdt_pointer: dw gdt_end - gdt - 1
  dd gdt
ivt_pointer: dw 0x3ff
  dd 0
  align 16
gdt:
  dq 0
  DESC 0, 0xfffff, 0x9b, 12
  DESC 0, 0xfffff, 0x93, 12
  times 6 dq 0
  DESC 0x100000, 0xffff, 0x9b, 0 ; SEL_CODE16
  DESC 0, 0xffff, 0x93, 0       ; SEL_DATA16
gdt_end:

  bits 16
section real vstart=0 follows=.text align=16
%macro CHECK 3                  ; name, 16-bit value, want
  push word %3
  push word %2
  call %%over
  db %1, 0
%%over:
  call check
%endmacro
%macro TRY 0
  %push try
  mov word [cs:resume], %$resume
  mov [cs:resume_sp], sp
  mov word [cs:got_vec], NONE
%endmacro
%macro FAULT 2
%$resume:
  mov word [cs:resume], 0
  %pop
  CHECK %1, [cs:got_vec], %2
%endmacro
start:
  mov ax, cs
  mov ds, ax
  mov ss, ax
  mov sp, 0xf000
  xor ax, ax
  mov es, ax
  mov di, 0
  mov cx, 256
  mov ax, stubs
.fill:
  mov [es:di], ax
  mov [es:di + 2], cs
  add ax, 8
  add di, 4
  loop .fill
  mov word [cs:got_ip], 0
  TRY
  int 0x82
.after_int:
  FAULT "int n through the IVT", 0x82
  CHECK "int n saves the next instruction", [cs:got_ip], .after_int
  TRY
.div:
  xor cx, cx
  div cx
  FAULT "divide by zero", 0
  CHECK "#DE saves the instruction", [cs:got_ip], .div + 2
  TRY
  ud2
  FAULT "ud2", 6
  TRY
  mov ax, [0xffff]
  FAULT "word at 0xffff", 13
  TRY
  mov ax, [ss:0xffff]
  FAULT "word at SS:0xffff", 12
  TRY
  mov al, [0xffff]
  FAULT "byte at 0xffff", NONE
  TRY
  a32 mov al, [dword 0x10000]
  FAULT "byte past 64 KiB by a 32-bit address", 13
  mov bx, 0xfff0
  mov si, 0x0010 + marker
  mov ax, [bx + si]
  CHECK "16-bit addresses wrap", ax, 0x5aa5
  TRY
  lldt ax
  FAULT "lldt", 6
  TRY
  ltr ax
  FAULT "ltr", 6
  TRY
  lar ax, cx
  FAULT "lar", 6
  TRY
  arpl ax, cx
  FAULT "arpl", 6
  TRY
  sysenter
  FAULT "sysenter", 13
  TRY
  bound ax, [bounds]
  FAULT "bound", 5
  TRY
  lidt [cs:short_ivt]
  int 0x90
  FAULT "int past the IVT limit", 13
  lidt [full_ivt]
  ; --- FFFF:0010 is the first byte above 1 MiB with A20 on ---
  mov ax, 0xffff
  mov es, ax
  mov ax, [es:0x10]
  CHECK "FFFF:0010 is above 1 MiB", ax, 0xb002 ; the Multiboot magic is the image's first word
  ; --- unreal: the limit of the descriptor cache stays ---
  cli
  lgdt [gdt_real]
  mov eax, cr0
  or al, 1
  mov cr0, eax
  mov bx, 8
  mov fs, bx
  and al, 0xfe
  mov cr0, eax
  TRY
  mov eax, [fs:dword 0x100000]
  FAULT "unreal mode reads above 64 KiB", NONE
  xor ax, ax
  mov fs, ax
  TRY
  mov eax, [fs:dword 0x100000]
  FAULT "a real-mode load keeps the limit", NONE
  mov ax, 0x1000
  mov fs, ax
  mov dword [fs:0], 0x13572468
  xor ax, ax
  mov es, ax
  a32 mov eax, [fs:dword 0]
  shr eax, 16
  CHECK "a real-mode load sets the base", ax, 0x1357
  ; --- far calls, stack ---
  mov bx, sp
  push cs
  call .near
  jmp .far_done
.near:
  retf
.far_done:
  sub bx, sp
  CHECK "push cs, call near, retf", bx, 0
  mov ax, 0x7002
  push ax
  popf
  pushf
  pop ax
  and ax, 0x7000
  CHECK "popf sets IOPL and NT", ax, 0x7000
  push word 2
  popf
  mov si, text_done
  call puts
  mov al, [failures]
  out 0xf4, al
  hlt

  align 8
stubs:
%assign v 0
%rep 256
  push word v
  jmp near trap
  align 8
  %assign v v + 1
%endrep
trap:
  mov [cs:kept_ax], ax
  pop word [cs:got_vec]
  pop word [cs:got_ip]
  cmp word [cs:resume], 0
  jne .resume
  mov ax, cs
  mov ds, ax
  mov si, text_unexpected
  call puts
  mov ax, [got_vec]
  call hex
  mov al, 10
  out 0xe9, al
  mov al, 126
  out 0xf4, al
  hlt
.resume:
  mov ax, cs
  mov ds, ax
  mov ss, ax
  mov sp, [resume_sp]
  push word 2
  popf
  jmp [resume]
check:
  pusha
  mov bp, sp
  mov si, text_ok
  mov ax, [bp + 20]
  cmp ax, [bp + 22]
  je .say
  mov si, text_fail
  inc byte [failures]
.say:
  call puts
  mov si, [bp + 18]
  call puts
  cmp ax, [bp + 22]
  je .end
  mov si, text_got
  call puts
  call hex
  mov si, text_want
  call puts
  mov ax, [bp + 22]
  call hex
.end:
  mov al, 10
  out 0xe9, al
  popa
  ret 6
puts:
  push ax
.next:
  cs lodsb
  test al, al
  jz .end
  out 0xe9, al
  jmp .next
.end:
  pop ax
  ret
hex:
  push cx
  push ax
  mov cx, 4
.next:
  rol ax, 4
  push ax
  and al, 15
  add al, '0'
  cmp al, '9'
  jbe .digit
  add al, 'a' - '0' - 10
.digit:
  out 0xe9, al
  pop ax
  loop .next
  pop ax
  pop cx
  ret
text_ok: db "ok ", 0
text_fail: db "FAIL ", 0
text_got: db " got ", 0
text_want: db " want ", 0
text_done: db "done", 10, 0
text_unexpected: db "FAIL unexpected vector ", 0
  align 4
marker: dw 0x5aa5
bounds: dw 1, 0
short_ivt: dw 0x90 * 4 - 1
  dd 0
full_ivt: dw 0x3ff
  dd 0
gdt_real: dw 15
  dd real_gdt + 0x20000
real_gdt: dq 0
  DESC 0, 0xfffff, 0x93, 8
resume: dw 0
resume_sp: dw 0
got_vec: dw 0
got_ip: dw 0
kept_ax: dw 0
failures: db 0
program_end:
bss_end equ 0x110000
