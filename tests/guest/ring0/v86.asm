; husk: virtual-8086 mode: entry by IRET, sensitive instructions, INT with and without VME (SDM 3A chapter 20)
%include "frame32.inc"
%define VSEG 0x2000             ; code and stack of the 8086 program

; V86 flags, code...: copies the bytes to VSEG:0 and enters
%macro V86 2+
  jmp %%go
%%code:
  bits 16
  %2
  int3                          ; for the machine that did not fault
  bits 32
%%code_end:
%%go:
  mov esi, %%code
  mov edi, VSEG * 16
  mov ecx, %%code_end - %%code
  rep movsb
  push dword 0x1111             ; GS
  push dword 0x2222             ; FS
  push dword 0x3333             ; DS
  push dword 0x4444             ; ES
  push dword VSEG               ; SS
  push dword 0xfff0             ; SP
  push dword 0x20002 | %1
  push dword VSEG
  push dword 0
  iretd
%endmacro
main:
  mov word [tss + 102], 104 + 32
  mov edi, tss + 104
  xor eax, eax
  mov ecx, 32
  rep stosd                     ; redirection bitmap: every vector goes to the program; no port allowed: see the limit
  mov word [gdt + SEL_TSS], 104 + 32
  and byte [gdt + SEL_TSS + 5], ~2
  mov eax, SEL_TSS
  ltr ax
  TRY
  V86 0, int3
  ENDTRY
  FAULT "int3 with IOPL 0 through a DPL 0 gate", 13, 3 * 8 + 2
  SET_GATE 3, SEL_CODE32, stubs + 3 * 16, 0xee
  TRY
  V86 0, int3
  ENDTRY
  FAULT "int3 does not heed IOPL", 3, 0
  CHECK "CS of the program", [got_cs], VSEG
  CHECK "SS of the program", [got_ss], VSEG
  CHECK "ESP of the program", [got_esp], 0xfff0
  mov eax, [got_flags]
  and eax, 0x20000
  CHECK "VM in the frame", eax, 0x20000
  mov ebx, [got_frame]
  CHECK "frame below ESP0", ebx, kstack_top - 36
  CHECK "ES above SS", [ebx + 20], 0x4444
  CHECK "DS next", [ebx + 24], 0x3333
  CHECK "FS next", [ebx + 28], 0x2222
  CHECK "GS next", [ebx + 32], 0x1111
  pushfd
  pop eax
  and eax, 0x20000
  CHECK "VM clear in the handler", eax, 0
  TRY
  V86 0, cli
  ENDTRY
  FAULT "cli with IOPL 0", 13, 0
  TRY
  V86 0, sti
  ENDTRY
  FAULT "sti with IOPL 0", 13, 0
  TRY
  V86 0, pushf
  ENDTRY
  FAULT "pushf with IOPL 0", 13, 0
  TRY
  V86 0, popf
  ENDTRY
  FAULT "popf with IOPL 0", 13, 0
  TRY
  V86 0, iret
  ENDTRY
  FAULT "iret with IOPL 0", 13, 0
  TRY
  V86 0, int 0x80
  ENDTRY
  FAULT "int n with IOPL 0", 13, 0
  TRY
  V86 0x3000, int 0x80
  ENDTRY
  FAULT "int n with IOPL 3 and a DPL 3 gate", 0x80, 0
  TRY
  V86 0x3000, int 0x82
  ENDTRY
  FAULT "int n with IOPL 3 and a DPL 0 gate", 13, 0x82 * 8 + 2
  TRY
  V86 0, hlt
  ENDTRY
  FAULT "hlt", 13, 0
  TRY
  V86 0x3000, in al, 0x80
  ENDTRY
  FAULT "in heeds the bitmap whatever the IOPL", 13, 0
  TRY
  V86 0, mov eax, cr0
  ENDTRY
  FAULT "mov from CR0", 13, 0
  TRY
  V86 0, lldt ax
  ENDTRY
  FAULT "lldt", 6, 0
  TRY
  V86 0, lar ax, cx
  ENDTRY
  FAULT "lar", 6, 0
  TRY
  V86 0, ud2
  ENDTRY
  FAULT "ud2", 6, 0
  TRY
  V86 0, mov ax, [0xffff]
  ENDTRY
  FAULT "word at 0xffff", 13, 0
  TRY
  V86 0, db 0x36, 0xa1, 0xff, 0xff ; mov ax, [ss:0xffff]
  ENDTRY
  FAULT "word at SS:0xffff", 12, 0
  mov word [0x34560], 0x1234
  TRY
  V86 0, db 0xb8, 0x56, 0x34, 0x8e, 0xd8, 0xa1, 0, 0, 0x66, 0x31, 0xc9, 0xcc ; mov ax,3456h; mov ds,ax; mov ax,[0]; int3
  ENDTRY
  mov eax, [got_eax]
  and eax, 0xffff
  CHECK "segment base is the selector times 16", eax, 0x1234
  TRY
  V86 0x3000, db 0x9c, 0x58, 0xcc ; pushf; pop ax; int3
  ENDTRY
  mov eax, [got_eax]
  and eax, 0x3000
  CHECK "pushf with IOPL 3", eax, 0x3000
  ; --- VME ---
  mov eax, 1
  cpuid
  test dl, 2
  jz .no_vme
  mov eax, cr4
  or eax, 1
  mov cr4, eax
  TRY
  V86 0, db 0xfb, 0xcc          ; sti; int3
  ENDTRY
  FAULT "sti with VME", 3, 0
  mov eax, [got_flags]
  and eax, 0x80200
  CHECK "sets VIF, not IF", eax, 0x80000
  TRY
  V86 0x80000, db 0x9c, 0x58, 0xfa, 0xcc ; pushf; pop ax; cli; int3
  ENDTRY
  mov eax, [got_eax]
  and eax, 0x3200
  CHECK "pushf with VME shows VIF as IF and IOPL 3", eax, 0x3200
  mov eax, [got_flags]
  and eax, 0x80000
  CHECK "cli with VME clears VIF", eax, 0
  TRY
  V86 0x100000, sti
  ENDTRY
  FAULT "sti with VIP", 13, 0
  ; INT through the program's own table: vector 0x21 at VSEG:8, which breaks
  mov word [0x21 * 4], 8
  mov word [0x21 * 4 + 2], VSEG
  mov dword [tss + 104], 0
  mov word [gdt + SEL_TSS], 104 + 32 + 1
  and byte [gdt + SEL_TSS + 5], ~2
  mov eax, SEL_TSS
  ltr ax
  TRY
  V86 0x80000, db 0xcd, 0x21, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x58, 0x59, 0x5a, 0xcc ; int 21h ... 8: pop ax, cx, dx; int3
  ENDTRY
  FAULT "int n redirected to the program", 3, 0
  CHECK "redirected: EIP", [got_eip], 12
  mov eax, [got_eax]
  and eax, 0xffff
  CHECK "redirected: the return IP", eax, 2
  mov eax, [got_flags]
  and eax, 0x80000
  CHECK "redirected: VIF cleared", eax, 0
  or byte [tss + 104 + 0x21 / 8], 1 << (0x21 & 7)
  TRY
  V86 0, db 0xcd, 0x21
  ENDTRY
  FAULT "int n with its bit set and IOPL 0", 13, 0
.no_vme:
  TRY
  push dword 0
  push dword 0
  push dword 0
  push dword 0
  push dword VSEG
  push dword 0xfff0
  push dword 0x20002
  push dword VSEG
  push dword 0x10000
  iretd
  ENDTRY
  FAULT "entry with EIP above 0xffff", 13, 0
  ret
