// What a call runs, as its key says: plastikern/program.py. Knows nothing of torch.
#pragma once

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "network.h"
#include "update.h"

namespace plastikern {

// An operator refuses its arguments. plastikern/program.py knows the first word, by which such an
// error differs from all others.
template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
    std::ostringstream text;
    text << "plastikern: ";
    (text << ... << parts);
    throw std::runtime_error(text.str());
}
template <class... Parts>
void require(bool condition, const Parts&... parts) {
    if (!condition) refuse(parts...);
}

// The next word of a text, which is taken off it; empty at its end.
inline std::string_view next_word(std::string_view& text) {
    const size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    return word;
}

struct Program {
    NetworkKind kind;
    int64_t rule;  // its place in update.h
    Nonlinearity nonlinearity, modulator_nonlinearity;
    Post post;
    ModulatorInput modulator_input;
    unsigned facts;  // of generated/program.h

    explicit Program(const std::string& key) {
        constexpr size_t count = sizeof kWords / sizeof *kWords;
        int64_t places[count];
        std::string_view words = key;
        for (size_t at = 0; at < count; ++at) places[at] = place_of(kWords[at], next_word(words));
        require(words.empty(), "program must have ", count, " words; got '", key, "'");
        const auto [kind_at, rule_at, constraint, nonlinearity_at, post_at, modulation, input,
                    modulator] = places;
        kind = static_cast<NetworkKind>(kind_at);
        rule = find_rule(rule_at, constraint);
        require(rule >= 0, "rule ", kWords[1][1 + rule_at], " and constraint ",
                kWords[2][1 + constraint], " do not go together");
        nonlinearity = static_cast<Nonlinearity>(nonlinearity_at);
        modulator_nonlinearity = kModulatorNonlinearities[modulator];
        post = static_cast<Post>(post_at);
        modulator_input = static_cast<ModulatorInput>(input);
        const bool gated = plastikern::gated(kind);
        facts = fact::rnn << kind_at | (modulation == 0 ? fact::unmodulated : fact::modulated) |
                (kind == NetworkKind::linear ? 0u : fact::recurrent) | (gated ? fact::gated : 0u) |
                (modulation == 2 ? fact::retroactive : 0u);
        require(kind == NetworkKind::linear || nonlinearity != Nonlinearity::softmax,
                "softmax is for a linear layer");
        require(modulator_input == ModulatorInput::hidden || kind == NetworkKind::lstm ||
                    (is(fact::recurrent) && modulator_input == ModulatorInput::previous_hidden),
                "the modulator's input does not exist in this network");
        require(!gated || history_rows(kind, post) > 0, "the post does not exist in this network");
    }
    bool is(unsigned fact) const { return (facts & fact) != 0; }

   private:
    // Of a word, in a row of kWords: the name of what it says, and the words that there are.
    static int64_t place_of(const char* const* row, std::string_view word) {
        std::string all;
        for (int64_t at = 1; at < 9 && row[at] != nullptr; ++at) {
            if (word == row[at]) return at - 1;
        }
        for (int64_t at = 1; at < 9 && row[at] != nullptr; ++at)
            all += (at > 1 ? ", " : "") + std::string(row[at]);
        refuse(row[0], " must be one of ", all, "; got '", word, "'");
    }
};

}  // namespace plastikern
