; husk: 32-bit paging, 4 KiB and 4 MiB pages (SDM 3A 4.3)
%include "paging32.inc"
