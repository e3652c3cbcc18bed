; husk: protected mode: segment types, limits, rings, call gates, far returns (SDM vol. 3A chapters 5 and 6)
%include "frame32.inc"

%define S(n) (SEL_FREE + (n) * 8)
main:
  ; --- loading segment registers (SDM 3A 3.4.5, 5.4-5.5; vol. 2 MOV/LDS) ---
  SET_DESC S(0), scratch, 0xfff, 0x92, 4    ; data rw, byte limit 4 KiB, accessed clear
  SET_DESC S(1), scratch, 0xfff, 0x90, 4    ; read only
  SET_DESC S(2), scratch, 0xfff, 0x12, 4    ; not present
  SET_DESC S(3), scratch, 0xfff, 0x96, 4    ; expand-down, B = 1: valid above 0xfff
  SET_DESC S(4), scratch, 0xfff, 0x96, 0    ; expand-down, B = 0: valid 0x1000..0xffff
  SET_DESC S(5), 0, 0xfffff, 0x98, 12       ; execute only
  SET_DESC S(6), 0, 0xfffff, 0x9e, 12       ; conforming, readable
  SET_DESC S(7), 0, 0xfffff, 0xfe, 12       ; conforming, DPL 3
  SET_DESC S(8), 0, 0xfffff, 0x18, 12       ; code, not present
  SET_DESC S(9), 0, 0, 0x92, 12             ; G = 1, limit 0: 4 KiB
  SET_DESC S(10), 0, 0xfffff, 0xb2, 12      ; data DPL 1

  mov eax, S(0)
  mov fs, ax
  mov al, [gdt + S(0) + 5]
  and eax, 0xff
  CHECK "load sets accessed", eax, 0x93
  TRY
  mov al, [fs:0xfff]
  ENDTRY
  NOFAULT "byte at the limit"
  TRY
  mov al, [fs:0x1000]
  ENDTRY
  FAULT "byte past the limit", 13, 0
  mov eax, S(0)                 ; the trap handler loads flat segments
  mov fs, ax
  TRY
  mov ax, [fs:0xfff]
  ENDTRY
  FAULT "word across the limit", 13, 0
  mov eax, S(0)
  mov fs, ax
  TRY
  mov eax, [fs:0xffd]
  ENDTRY
  FAULT "dword across the limit", 13, 0
  mov eax, S(0)
  mov fs, ax
  TRY
  mov eax, [fs:0xffffffff]
  ENDTRY
  FAULT "dword wrapping 4 GiB in a limited segment", 13, 0
  mov eax, S(1)
  mov fs, ax
  TRY
  mov [fs:0], al
  ENDTRY
  FAULT "write to a read-only segment", 13, 0
  mov eax, S(1)
  mov fs, ax
  TRY
  mov al, [fs:0]
  ENDTRY
  NOFAULT "read of a read-only segment"
  TRY
  mov eax, S(2)
  mov fs, ax
  ENDTRY
  FAULT "load of a segment not present", 11, S(2)
  TRY
  mov eax, S(2)
  mov ss, ax
  ENDTRY
  FAULT "load of SS not present", 12, S(2)
  TRY
  mov eax, S(1)
  mov ss, ax
  ENDTRY
  FAULT "load of SS read-only", 13, S(1)
  TRY
  xor eax, eax
  mov ss, ax
  ENDTRY
  FAULT "load of SS null", 13, 0
  TRY
  mov eax, S(10) + 1
  mov ss, ax
  ENDTRY
  FAULT "load of SS with RPL 1", 13, S(10)
  TRY
  mov eax, SEL_DATA + 3
  mov ss, ax
  ENDTRY
  FAULT "load of SS with RPL 3, DPL 0", 13, SEL_DATA
  TRY
  mov eax, SEL_CODE32
  mov ss, ax
  ENDTRY
  FAULT "load of SS with code", 13, SEL_CODE32
  TRY
  mov eax, S(5)
  mov fs, ax
  ENDTRY
  FAULT "load of execute-only into FS", 13, S(5)
  TRY
  mov eax, SEL_DATA + 3
  mov fs, ax
  ENDTRY
  FAULT "load of DPL 0 with RPL 3", 13, SEL_DATA
  TRY
  mov eax, S(6) + 3
  mov fs, ax
  mov al, [fs:main]
  ENDTRY
  NOFAULT "conforming code as data at any RPL"
  TRY
  mov eax, SEL_TSS
  mov fs, ax
  ENDTRY
  FAULT "load of a system descriptor", 13, SEL_TSS
  TRY
  mov eax, 0x200
  mov fs, ax
  ENDTRY
  FAULT "selector past the GDT limit", 13, 0x200
  TRY
  mov eax, 0x0c
  mov fs, ax
  ENDTRY
  FAULT "LDT selector with a null LDT", 13, 0x0c
  xor eax, eax
  mov fs, ax
  TRY
  mov al, [fs:0]
  ENDTRY
  FAULT "use of a null segment", 13, 0
  mov eax, 3
  TRY
  mov fs, ax
  ENDTRY
  NOFAULT "load of null with RPL 3"
  TRY
  mov eax, 0x10
  mov cs, ax
  ENDTRY
  FAULT "mov to CS", 6, 0
  TRY
  mov [cs:main], al
  ENDTRY
  FAULT "write through CS", 13, 0
  TRY
  jmp S(5):.xo
.xo:
  mov al, [cs:main]
  ENDTRY
  FAULT "read of execute-only CS", 13, 0
  jmp SEL_CODE32:.back
.back:

  ; --- expand-down (3A 5.3) ---
  mov eax, S(3)
  mov fs, ax
  TRY
  mov al, [fs:0x1000]
  ENDTRY
  NOFAULT "expand-down above the limit"
  TRY
  mov eax, S(3)
  mov fs, ax
  mov al, [fs:0xfff]
  ENDTRY
  FAULT "expand-down at the limit", 13, 0
  TRY
  mov eax, S(4)
  mov fs, ax
  mov al, [fs:0xffff]
  ENDTRY
  NOFAULT "expand-down 16-bit at 0xffff"
  TRY
  mov eax, S(4)
  mov fs, ax
  mov al, [fs:0x10000]
  ENDTRY
  FAULT "expand-down 16-bit above 0xffff", 13, 0
  TRY
  mov eax, S(9)
  mov fs, ax
  mov al, [fs:0xfff]
  ENDTRY
  NOFAULT "G=1 limit 0 covers 4 KiB"
  TRY
  mov eax, S(9)
  mov fs, ax
  mov al, [fs:0x1000]
  ENDTRY
  FAULT "G=1 limit 0 ends at 4 KiB", 13, 0

  ; --- the stack segment: #SS(0) ---
  SET_DESC S(11), scratch, 0xfff, 0x92, 4
  TRY
  mov eax, S(11)
  mov ss, ax
  mov esp, 0xff0
  mov ebp, 0x2000
  mov eax, [ebp]
  int 0x80                      ; back to the frame's stack
  ENDTRY
  FAULT "EBP access past SS limit", 12, 0
  TRY
  mov eax, S(11)
  mov ss, ax
  mov esp, 0xff0
  mov eax, [ss:0x1000]
  int 0x80
  ENDTRY
  FAULT "SS override past limit", 12, 0

  ; --- far jumps (vol. 2 JMP) ---
  TRY
  jmp 0:0
  ENDTRY
  FAULT "far jump to null", 13, 0
  TRY
  jmp SEL_DATA:0
  ENDTRY
  FAULT "far jump to data", 13, SEL_DATA
  TRY
  jmp S(8):0
  ENDTRY
  FAULT "far jump to code not present", 11, S(8)
  TRY
  jmp (SEL_UCODE32 & ~3):0
  ENDTRY
  FAULT "far jump to non-conforming DPL 3", 13, SEL_UCODE32 & ~3
  TRY
  jmp S(7):0
  ENDTRY
  FAULT "far jump to conforming DPL 3 from ring 0", 13, S(7)
  TRY
  jmp (SEL_CODE32 + 3):0
  ENDTRY
  FAULT "far jump with RPL above CPL", 13, SEL_CODE32
  TRY
  jmp S(6)+3:.conf
.conf:
  mov ecx, cs
  ENDTRY
  CHECK "conforming jump keeps CPL in CS.RPL", ecx, S(6)
  jmp SEL_CODE32:.back2
.back2:
  SET_DESC S(12), main, 0x3, 0x9b, 4
  TRY
  jmp S(12):4
  ENDTRY
  FAULT "far jump past the CS limit", 13, 0
  mov ecx, [got_cs]
  CHECK "far jump past the limit faults in the old CS", ecx, SEL_CODE32

  ; --- rings ---
  TRY
  USER
  mov eax, cs
  int 0x80
  ENDTRY
  FAULT "iret to ring 3 and back", 0x80, 0
  CHECK "CS of ring 3", [got_cs], SEL_UCODE32
  CHECK "SS of ring 3", [got_ss], SEL_UDATA
  CHECK "ESP of ring 3", [got_esp], ustack_top
  CHECK "the frame is on the TSS stack", [got_frame], kstack_top - 20
  TRY
  USER
  cli
  ENDTRY
  FAULT "cli in ring 3", 13, 0
  TRY
  USER
  hlt
  ENDTRY
  FAULT "hlt in ring 3", 13, 0
  TRY
  USER
  mov eax, cr0
  ENDTRY
  FAULT "mov from CR0 in ring 3", 13, 0
  TRY
  USER
  in al, 0x80
  ENDTRY
  FAULT "in with IOPL 0 and no bitmap", 13, 0
  TRY
  USER 0x3002
  in al, 0x80
  cli
  sti
  int 0x80
  ENDTRY
  FAULT "in, cli, sti with IOPL 3", 0x80, 0
  mov word [tss + 102], 104
  mov dword [tss + 104 + 16], 0xfffffffe    ; port 0x80 alone allowed
  mov word [gdt + SEL_TSS], 104 + 20
  and byte [gdt + SEL_TSS + 5], ~2
  mov ax, SEL_TSS
  ltr ax
  TRY
  USER
  in al, 0x80
  int 0x80
  ENDTRY
  FAULT "in allowed by the bitmap", 0x80, 0
  TRY
  USER
  in ax, 0x80
  ENDTRY
  FAULT "in word with the second port denied", 13, 0
  TRY
  USER
  int 0x30
  ENDTRY
  FAULT "int through a DPL 0 gate", 13, 0x30 * 8 + 2
  TRY
  USER
  mov ax, SEL_DATA
  mov ds, ax
  ENDTRY
  FAULT "ring 3 loads DPL 0 data", 13, SEL_DATA
  TRY
  USER
  jmp S(6)+3:.conf3
.conf3:
  mov eax, cs
  int 0x80
  ENDTRY
  CHECK "ring 3 in conforming DPL 0 code", [got_cs], S(6) + 3
  CHECK "and its CPL stays 3", [got_eax], S(6) + 3
  TRY
  USER 0x3202
  pushfd
  and dword [esp], ~0x3000
  popfd
  pushfd
  pop eax
  int 0x80
  ENDTRY
  mov eax, [got_eax]
  and eax, 0x3000
  CHECK "popf in ring 3 keeps IOPL", eax, 0x3000
  TRY
  USER 0x0202
  pushfd
  and dword [esp], ~0x200
  popfd
  pushfd
  pop eax
  int 0x80
  ENDTRY
  mov eax, [got_eax]
  and eax, 0x200
  CHECK "popf with CPL above IOPL keeps IF", eax, 0x200

  ; --- call gates (3A 5.8.3-5.8.5) ---
  SET_CALLGATE S(20), SEL_CODE32, gate_plain, 0xec, 0
  SET_CALLGATE S(21), SEL_CODE32, gate_params, 0xec, 2
  SET_CALLGATE S(22), SEL_CODE32, gate_plain, 0x8c, 0
  SET_CALLGATE S(23), SEL_CODE32, gate_plain, 0x6c, 0
  SET_CALLGATE S(24), 0, gate_plain, 0xec, 0
  SET_CALLGATE S(25), SEL_DATA, gate_plain, 0xec, 0
  SET_CALLGATE S(26), S(8), gate_plain, 0xec, 0
  SET_CALLGATE S(27), S(6), gate_conf, 0xec, 0
  TRY
  mov ebx, esp
  call S(20):0x12345678
  sub ebx, esp
  ENDTRY
  NOFAULT "call gate to the same ring"
  CHECK "call gate to the same ring balances", ebx, 0
  CHECK "call gate handler sees CS", [gate_cs], SEL_CODE32
  TRY
  USER
  push dword 0x11111111
  push dword 0x22222222
  call S(21)+3:0
  mov eax, fs
  mov [got_fs_user], eax
  mov eax, esp
  int 0x80
  ENDTRY
  FAULT "call gate ring 3 to 0 with parameters", 0x80, 0
  CHECK "parameter 1 copied", [gate_p1], 0x11111111
  CHECK "parameter 2 copied", [gate_p2], 0x22222222
  CHECK "old ESP above the parameters", [gate_esp], ustack_top - 8
  CHECK "old SS above the parameters", [gate_ss], SEL_UDATA
  CHECK "return CS in the gate frame", [gate_cs], SEL_UCODE32
  CHECK "gate stack comes from the TSS", [gate_sp], kstack_top - 24
  CHECK "ret far 8 releases both stacks", [got_eax], ustack_top
  CHECK "return to ring 3 nulls DPL 0 segments", [got_fs_user], 0
  TRY
  USER
  call S(22)+3:0
  ENDTRY
  FAULT "call gate DPL 0 from ring 3", 13, S(22)
  TRY
  call S(20)+3:0
  ENDTRY
  NOFAULT "call gate RPL 3 DPL 3 from ring 0"
  TRY
  call S(22)+3:0
  ENDTRY
  FAULT "call gate RPL above DPL", 13, S(22)
  TRY
  call S(23):0
  ENDTRY
  FAULT "call gate not present", 11, S(23)
  TRY
  call S(24):0
  ENDTRY
  FAULT "call gate with a null target", 13, 0
  TRY
  call S(25):0
  ENDTRY
  FAULT "call gate to data", 13, SEL_DATA
  TRY
  call S(26):0
  ENDTRY
  FAULT "call gate to code not present", 11, S(8)
  TRY
  USER
  jmp S(20)+3:0
  ENDTRY
  FAULT "jmp through a gate to a more privileged ring", 13, SEL_CODE32
  TRY
  USER
  call S(27)+3:0
  ENDTRY
  FAULT "call gate to conforming code", 0x80, 0
  CHECK "call gate to conforming code keeps CPL 3", [got_eax], S(6) + 3
  ret

gate_plain:
  mov eax, [esp + 4]
  mov [gate_cs], eax
  retf
gate_conf:
  mov eax, cs
  int 0x80
gate_params:
  push ds
  mov ax, SEL_DATA
  mov ds, ax
  mov fs, ax
  pop dword [gate_ds]
  mov [gate_sp], esp
  mov eax, [esp + 4]
  mov [gate_cs], eax
  mov eax, [esp + 8]
  mov [gate_p2], eax
  mov eax, [esp + 12]
  mov [gate_p1], eax
  mov eax, [esp + 16]
  mov [gate_esp], eax
  mov eax, [esp + 20]
  mov [gate_ss], eax
  mov ax, SEL_UDATA
  mov ds, ax
  retf 8
  align 4
gate_cs: dd 0
gate_ds: dd 0
gate_sp: dd 0
gate_p1: dd 0
gate_p2: dd 0
gate_esp: dd 0
gate_ss: dd 0
got_fs_user: dd 0
