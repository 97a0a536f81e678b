// What a driver reads of the kernels in a cubin: the sections `.nv.info` and `.nv.info.KERNEL` are
// lists of attributes (as `cuobjdump --dump-elf` shows them).
#pragma once

#include <elf.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>

namespace stand_in {

// Bytes of a kernel's arguments, and registers of a thread.
struct Use {
    int bytes_of_arguments = 0, registers = 32;
};

class Cubin {
   public:
    explicit Cubin(const void* image) : image_(static_cast<const char*>(image)) {
        read(head_, 0);
        names_ = section(head_.e_shstrndx).sh_offset;
    }

    std::map<std::string, Use> kernels() const {
        const std::string list = ".nv.info";
        std::map<std::string, Use> found;
        for (unsigned number = 0; number < head_.e_shnum; ++number) {
            const Elf64_Shdr one = section(number);
            const std::string name = image_ + names_ + one.sh_name;
            if (name.rfind(list + ".", 0) != 0) continue;
            attributes(one, [&](int attribute, const char* value) {
                uint16_t bytes;
                std::memcpy(&bytes, value, sizeof bytes);
                if (attribute == kArgumentBytes)
                    found[name.substr(list.size() + 1)].bytes_of_arguments = bytes;
            });
        }
        attributes(named(list), [&](int attribute, const char* value) {
            uint32_t symbol_and_count[2];
            std::memcpy(symbol_and_count, value, sizeof symbol_and_count);
            if (attribute == kRegisters && found.count(symbol(symbol_and_count[0])) != 0)
                found[symbol(symbol_and_count[0])].registers =
                    static_cast<int>(symbol_and_count[1]);
        });
        return found;
    }

   private:
    // EIATTR_CBANK_PARAM_SIZE and EIATTR_REGCOUNT; a value of the format EIFMT_SVAL has a length.
    static constexpr int kArgumentBytes = 0x19, kRegisters = 0x2f, kLong = 4;

    template <typename T>
    void read(T& to, uint64_t at) const {
        std::memcpy(&to, image_ + at, sizeof to);
    }
    Elf64_Shdr section(unsigned number) const {
        Elf64_Shdr found;
        read(found, head_.e_shoff + number * sizeof found);
        return found;
    }
    // One without a byte where there is none of that name.
    Elf64_Shdr named(const std::string& name) const {
        for (unsigned number = 0; number < head_.e_shnum; ++number) {
            const Elf64_Shdr found = section(number);
            if (name == image_ + names_ + found.sh_name) return found;
        }
        return {};
    }
    std::string symbol(unsigned number) const {
        Elf64_Sym found;
        read(found, named(".symtab").sh_offset + number * sizeof found);
        return image_ + named(".strtab").sh_offset + found.st_name;
    }
    template <class Each>
    void attributes(const Elf64_Shdr& list, const Each& each) const {
        const char *at = image_ + list.sh_offset, *end = at + list.sh_size;
        while (at < end) {
            const bool is_long = at[0] == kLong;
            uint16_t bytes;
            std::memcpy(&bytes, at + 2, sizeof bytes);
            each(at[1], is_long ? at + 4 : at + 2);
            at += 4 + (is_long ? bytes : 0);
        }
    }

    const char* image_;
    Elf64_Ehdr head_;
    uint64_t names_;
};

}  // namespace stand_in
