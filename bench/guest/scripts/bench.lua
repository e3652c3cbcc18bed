-- husk: the guest benchmark kit: a Lua program, for lua and for luajit: tables, closures, strings, floats
local scale = tonumber(arg[1])
local counts = {}
for i = 1, 400 * scale do
  local word = "w" .. (i * 7919 % 1009)
  counts[word] = (counts[word] or 0) + 1
end
local names = {}
for name in pairs(counts) do names[#names + 1] = name end
table.sort(names)

local function counter()
  local n = 0
  return function(step)
    n = (n + step) % 1000003
    return n
  end
end
local count = counter()
for i = 1, 6000 * scale do count(i) end

local flags = {}
local limit = 2000 * scale
for i = 2, limit do flags[i] = true end
local primes = 0
for i = 2, limit do
  if flags[i] then
    primes = primes + 1
    for j = i * i, limit, i do flags[j] = false end
  end
end

local x, y = 0.3, 0.1
for _ = 1, 8000 * scale do
  x, y = y + 1 - 1.4 * x * x, 0.3 * x
end

local function fibonacci(n)
  if n < 2 then return n end
  return fibonacci(n - 1) + fibonacci(n - 2)
end
local calls = 0
for _ = 1, scale do calls = calls + fibonacci(14) end
-- The last digits of a chaotic series are not compared: lua and luajit may contract differently, and need not agree.
print(#names, names[7], string.format("%d %d %d", count(0), primes, calls), x < 2 and y < 2)
