// Renders a Go template as Ollama does: a template and a list of conversations on standard input,
// the list of texts on standard output. Types and options are those of Ollama's package template.
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type args map[string]any

func (a args) String() string {
	text, _ := json.Marshal(a)
	return string(text)
}

type tool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		Parameters  struct {
			Type       string         `json:"type"`
			Required   []string       `json:"required,omitempty"`
			Properties map[string]any `json:"properties"`
		} `json:"parameters"`
	} `json:"function"`
}

func (t tool) String() string {
	text, _ := json.Marshal(t)
	return string(text)
}

type call struct {
	Function struct {
		Name      string `json:"name"`
		Arguments args   `json:"arguments"`
	} `json:"function"`
}

type message struct {
	Role      string `json:"role"`
	Content   string `json:"content"`
	ToolCalls []call `json:"tool_calls"`
}

type conversation struct {
	Messages []*message `json:"messages"`
	Tools    []tool     `json:"tools"`
}

func collate(given []*message) (string, []*message) {
	var system []string
	var joined []*message
	for _, one := range given {
		if one.Role == "system" {
			system = append(system, one.Content)
		}
		last := len(joined) - 1
		if last >= 0 && joined[last].Role == one.Role && one.Role != "tool" {
			joined[last].Content += "\n\n" + one.Content
		} else {
			joined = append(joined, one)
		}
	}
	return strings.Join(system, "\n\n"), joined
}

func main() {
	var asked struct {
		Template      string
		Conversations []conversation
	}
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		panic(err)
	}
	functions := template.FuncMap{"json": func(value any) string {
		text, _ := json.Marshal(value)
		return string(text)
	}}
	parsed := template.Must(
		template.New("").Option("missingkey=zero").Funcs(functions).Parse(asked.Template))
	texts := []string{}
	for _, one := range asked.Conversations {
		var text bytes.Buffer
		system, messages := collate(one.Messages)
		values := map[string]any{
			"System": system, "Messages": messages, "Tools": one.Tools, "Response": "",
		}
		if err := parsed.Execute(&text, values); err != nil {
			panic(err)
		}
		texts = append(texts, text.String())
	}
	json.NewEncoder(os.Stdout).Encode(texts)
}
